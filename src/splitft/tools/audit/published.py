"""The lines of a run's adapter in an audit: which rows it was trained on, and which canaries it remembers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splitft.lora.blocks import to_device
from splitft.running.export import load_adapter
from splitft.running.prepare import Assembly
from splitft.tools.audit.adapter import attack_client
from splitft.tools.audit.attacks.adapter import AdapterReading, membership
from splitft.tools.audit.lines import NOT_TRIED, Line
from splitft.tools.audit.metrics import auc_verdict

MEMBERS, CANARIES = "adapter: membership", "adapter: canaries"
SENTENCES = 256  # that canaries are ranked among
NONE = "membership and canaries of an adapter: the folder holds none in adapter/"


def adapter_lines(start: Assembly, run: Path, rows: int) -> tuple[list[Line], list[str]]:
    """Return the lines of the adapter in a run's folder, of each client, and what was not tried.

    rows: most training rows, and most held-out ones, of each client.
    """
    folder = run / "adapter"
    if not (folder / "adapter_config.json").is_file():
        return [], [NONE]
    adapter = to_device(load_adapter(folder, start.split_model.slots, start.job), start.device)
    lines = []
    for client in start.clients:
        reading = attack_client(start, client, adapter, SENTENCES, rows)
        lines.append(_member_line(reading))
        lines += [_canary_line(reading)] if reading.levels else []
    return lines, [] if start.job.canaries else ["sentences that an adapter remembers: the job plants none"]


def _member_line(reading: AdapterReading) -> Line:
    found = reading.membership
    if found is None:
        note = "fewer than 2 training rows, or held-out ones"
        return Line(reading.client, None, "rows", MEMBERS, None, note, NOT_TRIED)
    note = (
        f"AUC {found.auc:.2f} [{found.low:.2f}, {found.high:.2f}] of {found.trained} training rows beside "
        f"{found.held_out} held-out ones, 0.50 by guessing"
    )
    return Line(reading.client, None, "rows", MEMBERS, None, note, auc_verdict(found.low))


def _canary_line(reading: AdapterReading) -> Line:
    """Return the line of a client's canaries; its verdict is that of the level which stands out most."""
    levels = {level.copies: level for level in reading.levels}
    controls = levels.pop(0)
    lows = [
        found.low
        for level in levels.values()
        if (found := membership(np.array(level.exposures), np.array(controls.exposures))) is not None
    ]
    told = [
        f"{copies} cop{'y' if copies == 1 else 'ies'}: {level.median:.1f} bits, {level.first} of "
        f"{len(level.exposures)} first"
        for copies, level in sorted(levels.items(), reverse=True)
    ]
    note = f"median exposure: {'; '.join(told)}; not planted: {controls.median:.1f} bits"
    note += f"; {reading.most_bits:.1f} at most"
    return Line(reading.client, None, "canaries", CANARIES, None, note, auc_verdict(max(lows, default=0.0)))

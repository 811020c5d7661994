"""Plans as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from splitft.common.tables import make_table
from splitft.devices.simulate import PARTS
from splitft.running.progress import seconds_text
from splitft.tools.plan.codecs import CodecTrial
from splitft.tools.plan.cuts import CutCost, PolicyStart
from splitft.tools.plan.dry import DryRun


def cuts_table(costs: Sequence[CutCost], clients: int) -> Table:
    """Return the costs of each cut, where all clients have it."""
    timed = any(c.round_seconds is not None for c in costs)
    made = make_table(
        f"Cuts: all {clients} clients at the same one (bytes: a client's mean, up and down)",
        "cut", "trained", "client GB", "server GB", "MB a step", "MB a round",
        *(("round", "slowest") if timed else ()), left=0,
    )  # fmt: skip
    for c in costs:
        made.add_row(
            str(c.cut),
            f"{c.client_parameters:,}",
            f"{c.client_memory_bytes / 1e9:.2f}",
            f"{c.server_memory_bytes / 1e9:.2f}",
            f"{(c.step_bytes_up + c.step_bytes_down) / 1e6:,.2f}",
            f"{(c.round_bytes_up + c.round_bytes_down) / 1e6:,.1f}",
            *((seconds_text(c.round_seconds), c.slowest_client or "–") if timed else ()),
        )
    return made


def policies_table(starts: Sequence[PolicyStart]) -> Table:
    """Return the cuts that each policy would start with."""
    made = make_table(
        "Policies: cuts in round 1 (accuracies are not known yet)", "policy", "cuts", "round", left=2
    )
    for start in starts:
        cuts = start.problem or ", ".join(f"{name} {cut}" for name, cut in start.cuts.items())
        made.add_row(start.policy, cuts, seconds_text(start.round_seconds))
    return made


def bytes_table(run: DryRun) -> Table:
    """Return the bytes of the whole job, by kind and direction."""
    made = make_table("Bytes of the whole job: those that its ledger will count", "kind", "up", "down")
    ledger = run.parties.ledger
    counted = ledger.by_kind()
    for kind in sorted({kind for way in counted.values() for kind in way}):
        made.add_row(kind, f"{counted['up'].get(kind, 0):,}", f"{counted['down'].get(kind, 0):,}")
    phases = ledger.by_phase()
    for phase in ("training", "evaluation"):
        made.add_row(f"all of {phase}", *(f"{phases[way][phase]:,}" for way in ("up", "down")), style="bold")
    made.add_row("both", f"{ledger.total('up'):,}", f"{ledger.total('down'):,}", style="bold")
    return made


def codecs_table(trials: Sequence[CodecTrial]) -> Table:
    """The loss and the bytes of every codec, for `codec` and `gradient_codec`."""
    made = make_table(
        "Codecs: one batch of the first client, at its cut, with the adapter that the job starts from",
        "codec", "MB a step", "energy lost", "loss", "gradients' direction",
        "gradients: MB a step", "gradients: energy lost",
    )  # fmt: skip
    for t in trials:
        made.add_row(
            t.codec,
            f"{t.step_bytes / 1e6:,.3g}",
            f"{t.lost:.2%}",
            f"{t.loss_change:+.2%}",
            f"{t.direction:.3f}",
            f"{t.gradient_bytes / 1e6:,.3g}",
            f"{t.gradient_lost:.2%}",
        )
    return made


def time_table(run: DryRun) -> Table | None:
    """Return the parts of training time on the job's devices; None without devices."""
    timed = [r for r in run.records if r.virtual_seconds is not None]
    if not timed:
        return None
    total = sum(r.virtual_seconds or 0.0 for r in timed)
    made = make_table(
        f"Time: {len(timed)} rounds take {seconds_text(total)} on these devices (simulated; mean seconds "
        "a round)",
        "client", "device", *PARTS, "last to finish", left=2,
    )  # fmt: skip
    last: Mapping[str | None, int] = Counter(r.waited_for for r in timed)
    machines = run.parties.machines
    for name in run.parties.cohort.names:
        parts = [r.clients[name].virtual for r in timed if r.clients[name].virtual]
        figures = [f"{np.mean([p[part] for p in parts if p]):.3g}" if parts else "–" for part in PARTS]
        device = machines.clients[name].name if machines else "–"
        made.add_row(name, device, *figures, f"{last.get(name, 0)} of {len(timed)}")
    return made

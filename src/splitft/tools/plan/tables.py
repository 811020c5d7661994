"""Plans as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from splitft.running.progress import seconds_text
from splitft.tools.plan.codecs import CodecTrial
from splitft.tools.plan.cuts import CutCost, PolicyStart
from splitft.tools.plan.dry import DryRun
from splitft.tools.plan.scale import ScalePlan

_PARTS = ("compute", "transfer", "server", "queued", "idle")


def table(title: str, *headings: str, left: int = 1) -> Table:
    """Return an empty table; the first `left` columns are text, the others figures."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="left" if number < left else "right")
    return made


def cuts_table(costs: Sequence[CutCost], clients: int) -> Table:
    """What each cut costs when all clients have it."""
    made = table(
        f"Cuts: all {clients} clients at the same one (bytes: a client's mean, up and down)",
        "cut", "trained", "client GB", "server GB", "MB a step", "MB a round", "round", "slowest", left=0,
    )  # fmt: skip
    for c in costs:
        made.add_row(
            str(c.cut),
            f"{c.client_parameters:,}",
            f"{c.client_memory_bytes / 1e9:.2f}",
            f"{c.server_memory_bytes / 1e9:.2f}",
            f"{(c.step_bytes_up + c.step_bytes_down) / 1e6:,.2f}",
            f"{(c.round_bytes_up + c.round_bytes_down) / 1e6:,.1f}",
            seconds_text(c.round_seconds),
            c.slowest_client or "–",
        )
    return made


def policies_table(starts: Sequence[PolicyStart]) -> Table:
    """The cuts that each policy would start with."""
    made = table(
        "Policies: cuts in round 1 (accuracies are not known yet)", "policy", "cuts", "round", left=2
    )
    for start in starts:
        cuts = start.problem or ", ".join(f"{name} {cut}" for name, cut in start.cuts.items())
        made.add_row(start.policy, cuts, seconds_text(start.round_seconds))
    return made


def bytes_table(run: DryRun) -> Table:
    """What the whole job sends, by kind and direction."""
    made = table("Bytes of the whole job, as the ledger of its run will count them", "kind", "up", "down")
    counted = run.ledger.by_kind()
    for kind in sorted({kind for way in counted.values() for kind in way}):
        made.add_row(kind, f"{counted['up'].get(kind, 0):,}", f"{counted['down'].get(kind, 0):,}")
    made.add_row("all", f"{run.ledger.total('up'):,}", f"{run.ledger.total('down'):,}", style="bold")
    return made


def codecs_table(trials: Sequence[CodecTrial]) -> Table:
    """The loss and the bytes of every codec, for `codec` and `gradient_codec`."""
    made = table(
        "Codecs: one batch of the first client, at its cut, with the adapter that the job starts from",
        "codec", "MB a step", "energy lost", "loss", "gradients' direction",
        "gradients: MB a step", "energy lost",
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
    """Where the time of training goes on the job's devices; None without devices."""
    timed = [r for r in run.records if r.virtual_seconds is not None]
    if not timed:
        return None
    total = sum(r.virtual_seconds or 0.0 for r in timed)
    made = table(
        f"Time: {len(timed)} rounds take {seconds_text(total)} on these devices (simulated; mean seconds "
        "a round)",
        "client", "device", *_PARTS, "last to finish", left=2,
    )  # fmt: skip
    last: Mapping[str | None, int] = Counter(r.waited_for for r in timed)
    machines = run.machines
    for name in run.parties.cohort.names:
        parts = [r.clients[name].virtual for r in timed if r.clients[name].virtual]
        figures = [f"{np.mean([p[part] for p in parts if p]):.3g}" if parts else "–" for part in _PARTS]
        device = machines.clients[name].name if machines else "–"
        made.add_row(name, device, *figures, f"{last.get(name, 0)} of {len(timed)}")
    return made


def scale_tables(plan: ScalePlan) -> list[Table]:
    """One round of a large cohort, by kind of device: when clients are done, and where the time goes."""
    done = table(
        f"One round of {plan.present:,} of {plan.clients:,} clients: {seconds_text(plan.times.seconds)}",
        "device", "clients", "cut (median)", "half are done", "95 % are done", "all are done",
    )  # fmt: skip
    where = table("Where a client's seconds go (mean)", "device", *_PARTS)
    times, names = list(plan.times.clients.values()), np.asarray(plan.devices)
    for kind, number in Counter(plan.devices).most_common():
        chosen = np.flatnonzero(names == kind)
        ends = [float(np.quantile(plan.finished[chosen], share)) for share in (0.5, 0.95, 1.0)]
        cut = f"{np.median(np.asarray(plan.cuts)[chosen]):g}"
        done.add_row(kind, f"{number:,}", cut, *(seconds_text(end) for end in ends))
        where.add_row(kind, *(f"{np.mean([getattr(times[i], part) for i in chosen]):.3g}" for part in _PARTS))
    return [done, where]


def scale_lines(plan: ScalePlan) -> list[str]:
    """The server's side of a large round."""
    rate = (plan.bytes_up + plan.bytes_down) * 8 / plan.times.seconds / 1e9
    return [
        f"server: busy {100 * plan.server_load:.0f} % of the round, about "
        f"{plan.server_memory_bytes / 1e9:,.1f} GB of memory",
        f"traffic: {plan.bytes_up / 1e9:,.2f} GB up, {plan.bytes_down / 1e9:,.2f} GB down, "
        f"{rate:.3g} Gbit/s on average at the server",
    ]

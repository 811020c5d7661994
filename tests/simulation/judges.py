"""The judges of a schedule: the same bits, each step once, whole checkpoints, all told, nobody expelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from history_checker import check_lines
from splitft.common.checkpoint import load_checkpoint
from splitft.errors import NetworkError

if TYPE_CHECKING:
    from simulation.mains import Outcome
    from simulation.modes import Mode
    from simulation.party import Party


def judge(mode: Mode, parties: Sequence[Party], outcome: Outcome, whole: Outcome | None) -> str:
    """Return what is wrong; empty: nothing. whole: of the undisturbed run."""
    if outcome.expelled:
        return outcome.expelled[0]
    try:
        check_lines(outcome.log, mode.job, all_clients=mode.names if mode.strict else ())
    except AssertionError as error:
        return f"history: {error}"
    if apart := sums_apart(outcome.log):
        return apart
    for party in parties:
        end = outcome.ends.get(party.name)
        if end is not None and not end.ok:
            return f"{party.name} ended with: {end.reason}"
    for party in parties:
        if path := damaged(party.disk):
            return f"{party.name}: {path} has its name and is not whole"
    server: Any = parties[0].disk
    found = load_checkpoint(server.root("run") / "checkpoints")
    if found is None or found.round < mode.job.rounds - 1 or found.passed_over:  # it may die before the last
        return f"the last checkpoint: {found and (found.round, found.passed_over)}"
    if whole is not None and mode.strict:
        return same_bits(parties, outcome, whole)
    return ""


def documented_end(mode: Mode, error: Exception) -> bool:
    """Whether a run may end so: the clients of a sum are not all back, and its updates enter no other."""
    masked = mode.job.secure_aggregation and not mode.strict
    return masked and isinstance(error, NetworkError) and "was summed before" in str(error)


def sums_apart(log: Sequence[Mapping[str, Any]]) -> str:
    """Return which round was summed twice in a row over other clients; empty: none.

    Both sums begin at the same checkpoint, so that a client's update is the same in both, and the difference
    of the sums tells what others sent.
    """
    last: tuple[int, list[str]] = (0, [])
    for line in log:
        if line["event"] != "sum":
            continue
        now = line["round"], sorted(line["summed"])
        if now[0] == last[0] and now[1] != last[1]:
            return f"round {now[0]} was summed of {', '.join(last[1])}, and then of {', '.join(now[1])}"
        last = now
    return ""


def same_bits(parties: Sequence[Party], outcome: Outcome, whole: Outcome) -> str:
    """Return which part of the outcome is not that of the undisturbed run."""
    if outcome.adapter != whole.adapter:
        return f"the adapter is {outcome.adapter}, not {whole.adapter}"
    if outcome.records != whole.records:
        both = zip(outcome.records, whole.records, strict=False)
        other = [(key, a[key], b[key]) for a, b in both for key in b if a.get(key) != b[key]]
        return f"the records, {len(outcome.records)} of {len(whole.records)}, differ in {other}"
    for party in parties[1:]:
        state = outcome.clients.get(party.name)
        if state is not None and party.started <= outcome.completed_at and state != whole.clients[party.name]:
            return f"{party.name} ends with {state}, not {whole.clients[party.name]}"
    return ""


def damaged(disk: Any) -> str:
    """Return a checkpoint that has its name and is not whole; empty: there is none."""
    for folder in ("run/checkpoints", "client/saved", "client/finished"):
        place = disk.root(folder)
        for path in place.glob("round-*"):
            if load_checkpoint(place, int(path.name.removeprefix("round-"))) is None:
                return str(path)
    return ""

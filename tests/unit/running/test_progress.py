"""What a person sees of a round and of a whole run: virtual time, moved cuts, tables on a narrow terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from splitft.devices.simulate import ClientTimes, RoundTimes
from splitft.history import RoundRecord, make_record
from splitft.running.progress import MOST_NAMED, clients_table, devices_line, moves, rounds_table
from splitft.wire.ledger import Ledger
from splitft.wire.messages import Metrics

NAMES = [f"client-{number}" for number in range(8)]
CUTS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9))


def record(round_: int, cuts: Mapping[str, int | None], seconds: float | None = None) -> RoundRecord:
    """Return a round in which every client trained and was evaluated."""
    times = None
    if seconds is not None:
        each = ClientTimes(seconds, 0.0, 0.0, 0.0, 0.0, seconds)
        times = RoundTimes(seconds, next(iter(cuts)), 0.0, dict.fromkeys(cuts, each))
    ledger = Ledger()
    ledger.rows.update({("up", "adapter"): 1_234_567_890, ("down", "adapter"): 2_345_678_901})
    return make_record(
        round_,
        list(cuts),
        cuts,
        losses=dict.fromkeys(cuts, (32.1, 10)),
        metrics=dict.fromkeys(cuts, Metrics(round_, 40.0, 3.0, 10, 1.0, 10)),
        ledger=ledger,
        seconds=(600.0, 12.0),
        times=times,
        truncation_errors={},
    )


def shown(records: Sequence[RoundRecord]) -> list[str]:
    """Return the lines of the final tables on a terminal of 80 columns."""
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(rounds_table(records))
    console.print(clients_table(records))
    return console.export_text().splitlines()


def test_moves_of_cuts_are_grouped_and_named() -> None:
    before = dict(zip(NAMES, [8, 8, 4, 2, 6], strict=False))
    after = dict(zip(NAMES, [10, 10, 4, 1, 6], strict=False))
    assert moves(before, after) == "8→10 (client-0, client-1), 2→1 (client-3)"
    assert moves(before, before) == moves(None, after) == moves(before, None) == ""


@given(CUTS, CUTS)
def test_the_clients_that_moved_are_named_and_no_others(
    before: dict[str, int], after: dict[str, int]
) -> None:
    moved = {name for name in after if before.get(name, after[name]) != after[name]}
    named = {name for name in NAMES if name in moves(before, after)}
    assert named <= moved and bool(named) == bool(moved)
    assert named == moved or len(moved) > MOST_NAMED


def test_a_round_tells_its_virtual_time_who_was_last_and_what_moved() -> None:
    before, after = record(0, {"a": 8, "b": 8}), record(1, {"a": 8, "b": 3}, 3.764)
    assert devices_line(after, before) == "virtual 3.76 s, a last; cuts 8→3 (b)"
    assert devices_line(record(1, {"a": 8}, 600.0), None) == "virtual 10:00"
    assert devices_line(record(1, {"a": 8, "b": 8}), before) == ""


@pytest.mark.parametrize("seconds", [None, 119.4, 36_000.0])
def test_the_tables_fit_into_80_columns(seconds: float | None) -> None:
    names = {f"client-{number}": number + 1 for number in range(3)}
    lines = shown([record(0, names), record(1, names, seconds), record(2, names, seconds)])
    assert max(map(len, lines)) <= 80
    heads = ["accuracy", "adapter", *(["virtual"] if seconds else [])]
    assert all(any(head in line for line in lines) for head in heads)
    assert not any("…" in line for line in lines), "a figure is cut off"
    rows = [line for line in lines if line.strip().startswith(("0 ", "1 ", "2 "))]
    assert len(rows) == 3, "every round on one line"


def test_cuts_that_moved_and_methods_without_cuts_in_the_table_of_clients() -> None:
    moved = "\n".join(shown([record(0, {"a": 8}), record(1, {"a": 4})]))
    assert "8→4" in moved and "virtual" not in moved
    whole = shown([record(0, {"a": None}), record(1, {"a": None})])
    assert any(line.split()[:2] == ["a", "–"] for line in whole)

"""Figures of an audit: intervals over rows, floors, verdicts, and the rules for ids in a field."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitft.tools.audit.attacks.ids import read_back
from splitft.tools.audit.capture import MOST_CLIENTS, chosen_clients
from splitft.tools.audit.metrics import Estimate, rare_tokens, read, rouge_l, verdict

ROWS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=8)


def wrong(rows: list[list[int]]) -> list[list[int]]:
    return [[-1] * len(row) for row in rows]


@given(ROWS)
def test_the_truth_reads_all_and_a_wrong_guess_nothing(rows: list[list[int]]) -> None:
    floors = {"nothing": wrong(rows)}
    all_of_it = read(rows, rows, floors, rare_tokens(rows), 0)
    assert all_of_it.tokens.value == all_of_it.exact.value == all_of_it.rouge_l.value == 1.0
    assert (all_of_it.tokens.excess, all_of_it.tokens.low, all_of_it.tokens.high) == pytest.approx((1, 1, 1))
    assert all_of_it.verdict == "readable"
    nothing = read(rows, wrong(rows), floors, rare_tokens(rows), 0)
    assert nothing.tokens.value == nothing.exact.value == nothing.rouge_l.value == 0.0
    assert nothing.verdict == "too few rows to tell"


@given(ROWS)
def test_the_best_floor_counts_and_the_interval_holds_the_excess(rows: list[list[int]]) -> None:
    first = [row[:1] + [-1] * (len(row) - 1) for row in rows]
    found = read(rows, rows, {"first": first, "nothing": wrong(rows)}, set(), 1).tokens
    assert found.floor_by == "first" and found.floor > 0
    assert found.low - 1e-9 <= found.excess <= found.high + 1e-9


def test_rows_and_not_tokens_are_drawn() -> None:
    """Tokens of a row go together: rows that are read whole or not at all give a wide interval."""
    rows = [[1] * 50 for _ in range(10)]
    guess = [row if place % 2 else [0] * 50 for place, row in enumerate(rows)]
    found = read(rows, guess, {"nothing": wrong(rows)}, set(), 0).tokens
    assert found.value == 0.5
    assert found.high - found.low > 0.4


def test_rare_tokens_stand_at_most_three_times() -> None:
    assert rare_tokens([[1, 1, 2], [1, 2, 2], [1, 3]]) == {2, 3}


@pytest.mark.parametrize(("low", "high", "count", "wanted"), [
    (0.5, 0.9, 10, "readable"),
    (0.4, 0.9, 5000, "partly readable"),
    (0.06, 0.07, 10, "partly readable"),
    (-0.1, 0.05, 1000, "no better than guessing for these attacks"),
    (-0.1, 0.05, 999, "too few rows to tell"),
    (-0.1, 0.06, 5000, "too few rows to tell"),
    (0.05, 0.2, 5000, "too few rows to tell"),
])  # fmt: skip
def test_the_verdict_follows_from_the_interval(low: float, high: float, count: int, wanted: str) -> None:
    assert verdict(Estimate(0.5, 0.3, "", 0.2, low, high, count)) == wanted


def test_longest_common_subsequence() -> None:
    assert rouge_l([1, 2, 3, 4], [1, 3, 9, 4]) == pytest.approx(0.75)
    assert rouge_l([1, 2], []) == 0.0


def test_ids_count_as_read_in_runs_alone() -> None:
    row = torch.arange(20)
    assert read_back(row, torch.cat([torch.arange(5, 15), torch.tensor([90, 1, 91, 2])])).tolist() == [
        *[-1] * 5, *range(5, 15), *[-1] * 5,
    ]  # fmt: skip
    assert read_back(torch.tensor([4, 5]), torch.tensor([9, 4, 5])).tolist() == [4, 5]
    assert (read_back(row, torch.arange(20).flip(0)) == -1).all()


def test_every_cut_has_a_client() -> None:
    assert chosen_clients({"a": 1, "b": 1, "c": 2}) == ["a", "b", "c"]
    many = {f"c{number}": 1 + number % 3 for number in range(30)}
    chosen = chosen_clients(many)
    assert len(chosen) == MOST_CLIENTS and {many[name] for name in chosen} == {1, 2, 3}
    deep = {f"c{number}": number for number in range(12)}
    assert chosen_clients(deep) == list(deep)

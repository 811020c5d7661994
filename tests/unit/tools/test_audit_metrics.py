"""Figures of an audit: intervals over rows, floors, verdicts, and the rules for ids in a field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitft.tools.audit.capture import MOST_CLIENTS, chosen_clients
from splitft.tools.audit.metrics import Estimate, auc, auc_verdict, rare_tokens, read, rouge_l, verdict
from splitft.tools.audit.search import RowSearch
from tiny import tiny_tokenizer

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


def test_the_area_under_the_curve() -> None:
    assert auc([[1.0, 2.0], [3.0, 4.0]], [[False, False], [True, True]], 0)[0] == 1.0
    assert auc([[1.0, 4.0], [2.0, 3.0]], [[True, True], [False, False]], 0)[0] == 0.5
    assert auc([[1.0, 1.0, 1.0]], [[True, False, False]], 0)[0] == 0.5, "equal scores"
    assert auc([[1.0, 2.0]], [[True, True]], 0) == (0.5, 0.5, 0.5), "one kind alone"
    generator = np.random.default_rng(0)
    flags = [(generator.random(40) < 0.3).tolist() for _ in range(20)]
    noise = [generator.random(40).tolist() for _ in range(20)]
    _, low, high = auc(noise, flags, 0)
    assert low < 0.5 < high
    assert [auc_verdict(low) for low in (0.8, 0.6, 0.51)] == [
        "readable", "partly readable", "too few rows to tell"
    ]  # fmt: skip


def test_longest_common_subsequence() -> None:
    assert rouge_l([1, 2, 3, 4], [1, 3, 9, 4]) == pytest.approx(0.75)
    assert rouge_l([1, 2], []) == 0.0


def test_ids_count_as_read_in_runs_alone() -> None:
    rows = [torch.arange(20), torch.tensor([4, 5, 6]), torch.tensor([250, 251, 252, 253])]
    search = RowSearch(tiny_tokenizer(), rows, short=True)
    seen = np.array([*range(5, 15), 90, 1, 91, 2, 250, 251, 252, 253])
    found = search.as_ids([seen])
    assert found[0].tolist() == [*[-1] * 5, *range(5, 15), *[-1] * 5]
    assert found[2].tolist() == [250, 251, 252, 253] and set(found) == {0, 2}, "3 ids are too few"
    assert not search.as_ids([np.arange(20)[::-1].copy()])
    assert set(RowSearch(tiny_tokenizer(), rows).as_ids([seen])) == {0}


def test_text_counts_as_read_where_its_characters_stand_together() -> None:
    tokenizer = tiny_tokenizer()
    text = "the people of the united states and the congress have made a new law for the good of the nation"
    ids = torch.tensor(tokenizer(text)["input_ids"])
    search = RowSearch(tokenizer, [ids])
    half = text[: len(text) // 2 + 10]
    (read,) = search.as_text([f"round 1 {half.replace(' ', chr(10) * 2)} and so on"]).values()
    assert tokenizer.decode(read[read >= 0]) in half and (read >= 0).float().mean() > 0.4
    assert not search.as_text([text[:40], text[::-1]])


def test_every_cut_has_a_client() -> None:
    assert chosen_clients({"a": 1, "b": 1, "c": 2}) == ["a", "b", "c"]
    many = {f"c{number}": 1 + number % 3 for number in range(30)}
    chosen = chosen_clients(many)
    assert len(chosen) == MOST_CLIENTS and {many[name] for name in chosen} == {1, 2, 3}
    deep = {f"c{number}": number for number in range(12)}
    assert chosen_clients(deep) == list(deep)

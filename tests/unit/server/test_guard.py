"""What one client states or hands in does not decide alone: gradient norms, and the average of a round."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.errors import DivergedError
from splitft.lora.blocks import Adapter
from splitft.lora.optimizer import NO_GRADIENT, total_norm
from splitft.server.guard import EXPLODES, IN_A_ROW, Guard
from splitft.server.trunks import OUTLIER_NORM, believable
from splitft.wire.messages import Metrics

NONE = torch.zeros(0)


@settings(deadline=None)
@given(claim=st.floats(1e-3, 1e30), others=st.integers(1, 5), own=st.floats(0.1, 10.0))
def test_a_stated_norm_cannot_freeze_a_shared_trunk(claim: float, others: int, own: float) -> None:
    trunk = torch.tensor([own, NO_GRADIENT])
    honest = {f"c{i}": (torch.tensor([0.5, NO_GRADIENT]), NONE) for i in range(others)}
    theirs = believable(honest | {"mallory": (torch.tensor([claim]), NONE)}, trunk)
    assert float(theirs["mallory"][0][0]) <= OUTLIER_NORM * max(own, 0.5) * 1.001
    assert all(theirs[name][0] is norms for name, (norms, _) in honest.items())
    if claim <= OUTLIER_NORM * max(own, 0.5):
        assert float(theirs["mallory"][0][0]) == pytest.approx(claim)
    everything = total_norm([trunk, *(part for both in theirs.values() for part in both)])
    assert float(everything) <= (OUTLIER_NORM + 1 + others) * max(own, 0.5)


def test_a_single_client_and_fronts_without_adapters_are_left_alone() -> None:
    trunk = torch.tensor([1.0])
    alone = {"anna": (torch.tensor([1e9]), NONE)}
    assert believable(alone, trunk) is alone
    frozen = dict.fromkeys(("anna", "bert"), (NONE, NONE))
    assert believable(frozen, trunk) == frozen


def sums(loss: float) -> Metrics:
    return Metrics(1, loss * 10, 0.0, 10, 0.0, 10)


class Round:
    """A round whose average does harm while one of these clients is in it."""

    def __init__(self, clients: list[str], bad: Collection[str]) -> None:
        self.suspects = {
            name: 100.0 if name in bad else 1.0 for name in sorted(clients, key=lambda c: c not in bad)
        }
        self.bad, self.inside, self.blamed, self.said = bad, list(clients), list[str](), list[str]()
        self.guard = Guard(self.examine, lambda name, reason: self.blamed.append(name), self.said.append)

    def examine(self, old: Adapter, new: Adapter) -> str:
        return "not finite" if set(self.bad) & set(self.inside) else ""

    def remake(self, without: Collection[str]) -> None:
        self.inside = [name for name in self.suspects if name not in without]

    def check(self) -> Any:
        self.inside = list(self.suspects)
        return self.guard.check({}, dict, self.suspects, self.remake)


@pytest.mark.parametrize(
    ("clients", "bad", "blamed"),
    [
        (["a", "b", "c"], [], []),
        (["a", "b", "c"], ["b"], ["b"]),
        (["a", "b"], ["a"], ["a"]),
        (["a", "b", "c", "d", "e"], ["b", "e"], ["b", "e"]),
        (["a", "b", "c"], ["a", "b"], []),  # no minority: nobody can be told from the others
        (["a"], ["a"], []),
    ],
)
def test_whoever_s_absence_mends_the_average_is_to_blame(
    clients: list[str], bad: list[str], blamed: list[str]
) -> None:
    one = Round(clients, bad)
    one.check()
    assert one.blamed == blamed
    stays = [name for name in clients if name not in blamed] if blamed or not bad else []
    assert sorted(one.inside) == stays
    assert bool(one.said) == (bool(bad) and not blamed)


def test_rounds_that_are_rolled_back_one_after_another_are_a_run_that_diverges() -> None:
    one = Round(["a", "b", "c"], ["a", "b", "c"])
    for _ in range(IN_A_ROW - 1):
        one.check()
    with pytest.raises(DivergedError, match="in 3 rounds in a row"):
        one.check()


def harmless(old: Adapter, new: Adapter) -> str:
    return ""


def judged(losses: dict[str, float], lengths: dict[str, float]) -> tuple[list[bool], list[str], list[str]]:
    """Return how evaluations with these losses were taken, after one with 2 nats; and whom it blamed."""
    left, blamed = list[str](), list[str]()
    guard = Guard(harmless, lambda name, reason: blamed.append(name), lambda text: None)
    remake: Callable[[Collection[str]], None] = left.extend
    guard.check({}, dict, lengths, remake)
    assert guard.accepts({name: sums(2.0) for name in losses})
    guard.check({}, dict, lengths, remake)
    taken = [guard.accepts({name: sums(loss) for name, loss in losses.items()})]
    while not taken[-1]:
        taken.append(guard.accepts({name: sums(2.0) for name in losses}))
    return taken, blamed, left


def test_an_evaluation_that_explodes_takes_out_the_longest_update() -> None:
    bad = dict.fromkeys("abc", 2.0 + 2 * EXPLODES)
    assert judged(bad, {"b": 40.0, "a": 1.0, "c": 1.0}) == ([False, True], ["b"], ["b"])
    taken, blamed, left = judged(bad, {"b": 1.1, "a": 1.0, "c": 1.0})  # nobody stands out: all is put back
    assert (taken, blamed, sorted(left)) == ([False, True], [], ["a", "b", "c"])


def test_one_liar_neither_feigns_nor_hides_an_explosion() -> None:
    lengths = {"liar": 40.0, "a": 1.0, "b": 1.0}
    assert judged({"liar": 1e6, "a": 2.1, "b": 1.9}, lengths)[:2] == ([True], [])
    assert judged({"liar": 0.0, "a": 9.0, "b": 9.0}, lengths)[:2] == ([False, True], ["liar"])


def test_a_sum_that_does_harm_is_rolled_back_with_nobody_to_blame() -> None:
    """With secure aggregation no average without one client can be made: none is tried."""
    made: list[list[str]] = []

    def examine(old: Adapter, new: Adapter) -> str:
        return "not finite"

    blamed, said = list[str](), list[str]()
    guard = Guard(examine, lambda name, reason: blamed.append(name), said.append, tries=False)
    everybody = dict.fromkeys(["anna", "bert", "cleo"], 0.0)
    guard.begin()
    assert guard.check({}, dict, everybody, lambda without: made.append([*without])) == [*everybody]
    assert made == [[*everybody]] and not blamed and "nobody to blame" in said[0]
    # The same where the evaluation of one that passed shows it.
    calm = Guard(lambda old, new: "", lambda name, reason: blamed.append(name), said.append, tries=False)
    assert calm.accepts({name: sums(1.0) for name in everybody})
    calm.begin()
    calm.check({}, dict, everybody, lambda without: made.append([*without]))
    assert not calm.accepts({name: sums(2.0 + EXPLODES) for name in everybody})
    assert made[-1] == [*everybody] and not blamed

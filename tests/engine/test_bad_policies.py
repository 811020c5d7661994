"""Cut policies of a user's own that answer nonsense or fail: named, and no round is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from bad_jobs import QUIET, Settings, assert_one_message
from peft import AutoPeftModelForCausalLM
from rich.console import Console

import splitft
from cases import rest_slow
from splitft import Job, run
from splitft.cuts import Observation, Proposal
from splitft.errors import JobError
from splitft.job import CutPolicyConfig
from splitft.tools.plan.command import plan_command

pytestmark = pytest.mark.pictures


def test_a_good_policy_of_ones_own_runs(settings: Settings) -> None:
    splitft.register_cut_policy("test_good", lambda seen, config: {c.name: 3 for c in seen.clients})
    result = run(Job(**settings, cut_policy={"method": "test_good"}), console=QUIET)
    assert result.history[1].cuts == {"client-0": 3, "client-1": 3}


def both(value: Any) -> Callable[..., Any]:
    return lambda seen, config: {client.name: value for client in seen.clients}


def raising(seen: Observation, config: CutPolicyConfig) -> dict[str, float]:
    raise ZeroDivisionError("no clients to share")


NONSENSE: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "nothing": (lambda seen, config: None, ("returned None", "{client: blocks}")),
    "a list": (lambda seen, config: [2, 2], ("returned [2, 2]", "{client: blocks}")),
    "a number": (lambda seen, config: 2, ("returned 2,",)),
    "no clients": (lambda seen, config: {}, ("no target for client client-0",)),
    "a missing client": (lambda seen, config: {"client-0": 2}, ("no target for client client-1",)),
    "a stranger": (
        lambda seen, config: {"client-0": 2, "client-1": 2, "client-2": 2},
        ("'client-2'", "no client of this round"),
    ),
    "not a number": (both(math.nan), ("nan for client client-0", "finite number of blocks")),
    "infinity": (both(-math.inf), ("-inf for client client-0", "finite")),
    "a text": (both("2"), ("'2' for client client-0", "finite number")),
    "yes": (both(True), ("True for client client-0", "finite number")),
    "none": (both(None), ("None for client client-0", "finite number")),
    "too much for a float": (both(10**400), ("for client client-0", "finite number")),
    "a state that is none": (
        lambda seen, config: Proposal({c.name: 2 for c in seen.clients}, state={"seen": seen}),
        ("a state that cannot be recorded as JSON",),
    ),
    "reasons that are none": (
        lambda seen, config: Proposal({c.name: 2 for c in seen.clients}, reasons={"client-0": 7}),  # type: ignore[dict-item]
        ("the reason 7 for client client-0",),
    ),
    "an error": (raising, ("failed: ZeroDivisionError: no clients to share",)),
    "too few parameters": (lambda: {}, ("failed: TypeError",)),
}


@pytest.mark.parametrize("name", rest_slow(NONSENSE, ["a missing client", "infinity"]))
def test_a_policy_that_answers_nonsense_is_named_before_anything_is_trained(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    policy, wanted = NONSENSE[name]
    splitft.register_cut_policy("test_nonsense", policy)
    job = Job(**settings, cut_policy={"method": "test_nonsense"})
    for start in (lambda: run(job, console=QUIET), lambda: plan_command(job, console=QUIET)):
        with pytest.raises(JobError) as refusal:
            start()
        assert_one_message(f"error: {refusal.value}", ("cut policy test_nonsense ", *wanted))
        assert not any((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("targets", rest_slow([1e300, 2.4999, 0, -1e300], 2))
def test_a_number_out_of_range_is_a_wish_and_is_bounded(targets: float, settings: Settings) -> None:
    splitft.register_cut_policy("test_extreme", both(targets))
    policy = {"method": "test_extreme", "max_step": 9}
    result = run(Job(**settings, cut_policy=policy), console=QUIET)
    assert set((result.history[1].cuts or {}).values()) == {3 if targets > 3 else max(1, round(targets))}


def test_a_policy_that_fails_in_a_later_round_loses_no_round(settings: Settings, tmp_path: Path) -> None:
    def fails_later(seen: Observation, config: CutPolicyConfig) -> dict[str, float]:
        return {c.name: math.nan if seen.round == 3 else float(seen.round) for c in seen.clients}

    splitft.register_cut_policy("test_fails_later", fails_later)
    told = StringIO()
    job = Job(**{**settings, "rounds": 5, "cut_policy": {"method": "test_fails_later"}})
    with pytest.raises(JobError, match="nan for client client-0"):
        run(job, console=Console(file=told, width=300))
    out = tmp_path / "out"
    assert f"stopped after round 2; its results are in {out}" in told.getvalue()
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["round"], line["cuts"]["client-0"]) for line in lines] == [(0, 2), (1, 1), (2, 2)]
    decisions = (out / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["round"] for line in decisions] == [1, 2]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert (summary["rounds"], summary["interrupted"]) == (2, True)
    assert (out / "perplexity.png").is_file()
    AutoPeftModelForCausalLM.from_pretrained(str(out / "adapter"))

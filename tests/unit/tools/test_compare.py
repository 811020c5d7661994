"""Promises of a comparison's planning: which runs are needed, what they are called, which are made anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compare_jobs import make_job
from splitft.errors import JobError
from splitft.job.settings import METHODS
from splitft.tools.compare.arms import (
    Arm,
    algorithms,
    make_arms,
    method_overrides,
    parse_methods,
    parse_vary,
)
from splitft.tools.compare.plan import changed_key, distinct_runs, name_variants, plan_variants, run_name
from splitft.tools.compare.processes import reason_of, thread_settings
from splitft.tools.compare.progress import Advance, read_advance, seconds_left

POLICIES = ("fixed", "resource", "accuracy", "splitft", "makespan", "schedule")
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


# Arms


def test_every_method_and_every_policy_can_be_compared() -> None:
    names, problems = parse_methods(" same_split,splitft , makespan", POLICIES)
    assert (names, problems) == (["same_split", "splitft", "makespan"], [])
    for name in dict.fromkeys([*METHODS, *POLICIES]):
        assert parse_methods(name, POLICIES) == ([name], [])


def test_a_policy_is_method_splitft_with_it_and_splitft_keeps_a_policy_that_moves() -> None:
    assert method_overrides("makespan", "fixed") == {"method": "splitft", "cut_policy.method": "makespan"}
    assert method_overrides("splitft", "schedule") == {"method": "splitft"}
    assert method_overrides("makespan", "schedule")["cut_policy.schedule"] is None
    assert method_overrides("fixed", "splitft") == {"method": "splitft", "cut_policy.method": "fixed"}
    assert method_overrides("splitft", "fixed") == {"method": "splitft", "cut_policy.method": "splitft"}
    assert method_overrides("splitft", "resource") == {"method": "splitft"}
    assert method_overrides("fed_lora", "fixed") == {"method": "fed_lora"}


def test_algorithms_are_compared_one_alone_each(job_file: str) -> None:
    named = algorithms(["none", "fedavgm", "mine"], ["plain", "fedprox"])
    assert list(named) == ["fedavg", "fedprox", "fedavgm", "mine"]
    assert parse_methods("fedavg,mine", [*POLICIES, *named]) == (["fedavg", "mine"], [])
    arms = make_arms(["fedavg", "fedavgm", "fedprox"], {}, "fixed", named)
    jobs = [variant.job for variant in plan_variants(job_file, ["proximal_mu=0.5"], arms, [7])]
    assert [(job.server_optimizer, job.objective) for job in jobs] == [
        ("none", "plain"), ("fedavgm", "plain"), ("none", "fedprox"),
    ]  # fmt: skip
    assert {(job.method, job.cut_policy.method, job.proximal_mu) for job in jobs} == {
        ("splitft", "fixed", 0.5)
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "no method, cut policy or algorithm is called ''"), ("same_spilt", "did you mean same_split?"),
     ("splitft,splitft", "splitft is given twice"), ("zzz", "there are splitft, same_split")],
)  # fmt: skip
def test_wrong_methods_are_told(text: str, told: str) -> None:
    assert any(told in problem for problem in parse_methods(text, POLICIES)[1])


def test_varied_keys_are_lists_of_yaml() -> None:
    varied, problems = parse_vary(["cuts=[1, [1, 2, 3]]", "partition.method=[iid]", "lora_r_cut=[null,2e0]"])
    assert problems == []
    assert varied == {"cuts": [1, [1, 2, 3]], "partition.method": ["iid"], "lora_r_cut": [None, 2.0]}


@pytest.mark.parametrize(
    "text",
    ["cuts", "cuts=", "cuts=2", "cuts=[]", "=[1]", "cuts=[1", "seed=[1]", "output_dir=[a]", "cuts=[1,1]"],
)
def test_wrong_varied_keys_are_told_by_name(text: str) -> None:
    problems = parse_vary([text])[1]
    assert len(problems) == 1
    assert problems[0].startswith(f"--vary {text.partition('=')[0] or text}: ")


def test_a_key_that_is_varied_twice_is_told() -> None:
    assert "varied twice" in parse_vary(["cuts=[1]", "cuts=[2]"])[1][0]


@given(
    st.lists(st.sampled_from(METHODS), unique=True),
    st.dictionaries(
        st.sampled_from(["cuts", "lora_r_cut", "partition.alpha"]),
        st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
    ),
)
def test_arms_are_every_combination_under_a_name_of_its_own(
    methods: list[str], varied: dict[str, list[Any]]
) -> None:
    arms = make_arms(methods, varied, "fixed")
    count = max(1, len(methods))
    for values in varied.values():
        count *= len(values)
    assert len(arms) == count
    assert len({arm.label for arm in arms}) == count
    assert len({json.dumps(arm.overrides, sort_keys=True) for arm in arms}) == count
    assert all(set(arm.overrides) >= set(varied) for arm in arms)


# Plan


def test_a_plan_has_every_arm_with_every_seed_from_the_jobs_own(job_file: str) -> None:
    arms = make_arms(["same_split", "makespan"], {"lora_r_cut": [2, 4]}, "fixed")
    variants = name_variants(plan_variants(job_file, ["rounds=3"], arms, [7, 8]))
    assert [(v.label, v.seed) for v in variants[:3]] == [
        ("same_split, lora_r_cut 2", 7), ("same_split, lora_r_cut 2", 8), ("same_split, lora_r_cut 4", 7)
    ]  # fmt: skip
    assert len(variants) == len({v.run for v in variants}) == 8
    assert {v.job.rounds for v in variants} == {3}
    assert variants[-1].label == "makespan, lora_r_cut 4"
    assert variants[-1].job.cut_policy.method == "makespan"
    assert variants[-1].job.seed == 8


@given(st.text(min_size=1), st.dictionaries(st.text(min_size=1), st.text(min_size=1), min_size=1))
@settings(deadline=None)
def test_texts_reach_the_job_as_they_are(text: str, files: dict[str, str]) -> None:
    keys = {
        "dataset_text_field": text,
        "dataset_name": None,
        "data_files": files,
        "partition.method": "files",
    }
    (variant,) = plan_variants("fixed-cuts", ["cuts=1"], [Arm("x", keys)], [0])
    assert variant.job.dataset_text_field == text
    assert variant.job.data_files == files


@given(st.none() | st.booleans() | NUMBERS | st.lists(NUMBERS))
@settings(deadline=None)
def test_other_values_are_not_taken_for_texts(value: Any) -> None:
    with pytest.raises(JobError, match="dataset_text_field"):
        plan_variants("fixed-cuts", [], [Arm("x", {"dataset_text_field": value})], [0])


def test_all_problems_of_all_jobs_are_told_at_once(job_file: str) -> None:
    arms = make_arms([], {"lora_r_cut": [4, 16], "rounds": [1, 0]}, "fixed")
    with pytest.raises(JobError) as caught:
        plan_variants(job_file, [], arms, [1, 2])
    message = str(caught.value)
    assert message.count("16 is more than lora_r (8)") == 1
    assert message.count("rounds: must be an integer ≥ 1, not 0") == 1
    assert "nothing was started" in message


@pytest.mark.parametrize("key", ["max_steps", "num_train_epochs"])
def test_rounds_that_another_key_sets_cannot_be_varied(key: str, job_file: str) -> None:
    arms = make_arms([], {"rounds": [1, 2]}, "fixed")
    told = f"rounds=1; rounds=2: rounds: {key} 40.* sets the rounds, .* equal: vary {key}, or unset it"
    with pytest.raises(JobError, match=told):
        plan_variants(job_file, [f"{key}=40"], arms, [0])
    assert len(plan_variants(job_file, [f"{key}=40", f"{key}=null"], arms, [0])) == 2


def test_unknown_policies_and_devices_are_told_before_anything_starts(job_file: str) -> None:
    arms = [
        Arm("one", {"cut_policy.method": "makspan"}),
        Arm("two", {"devices": ["laptop", "fone", "laptop", "laptop", "laptop"]}),
        Arm("three", {"server_device": "mainframe"}),
    ]
    with pytest.raises(JobError) as caught:
        plan_variants(job_file, [], arms, [7])
    assert all(part in str(caught.value) for part in ("did you mean makespan", "'fone'", "server_device"))


def test_equal_jobs_share_a_run_whatever_they_are_called(job_file: str) -> None:
    full_rank = plan_variants(job_file, [], [Arm("rank", {"lora_r": 8}), Arm("other", {"lora_r": 4})], [7])
    as_it_is = plan_variants(job_file, ["output_dir=elsewhere"], [Arm("the job", {})], [7])
    assert full_rank[0].run == as_it_is[0].run != full_rank[1].run
    assert [v.label for v in distinct_runs([*full_rank, *as_it_is]).values()] == ["rank", "other"]


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "rounds": st.integers(1, 50),
        "cuts": st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=5, max_size=5),
        "learning_rate": st.floats(1e-6, 1e-1),
        "method": st.sampled_from(METHODS),
        "cut_policy": st.fixed_dictionaries(
            {
                "method": st.text(min_size=1).filter(
                    lambda name: name not in POLICIES
                ),  # these need more keys
                "gamma": st.floats(0, 2),
            }
        ),
        "seed": st.integers(0, 2**32 - 1),
        "lora_target_modules": st.lists(st.text(min_size=1), min_size=1, max_size=2),
    },
)


@given(CHANGES, CHANGES)
def test_a_runs_name_is_safe_and_tells_jobs_apart(one: dict[str, Any], two: dict[str, Any]) -> None:
    # Each set of changes is a valid job by itself where the method and the cuts agree.
    jobs = []
    for changes in (one, two):
        if changes.get("method", "splitft") != "splitft":
            changes.pop("cut_policy", None)
        if changes.get("method") == "same_split" and isinstance(changes.get("cuts"), list):
            changes["cuts"] = changes["cuts"][0]
        jobs.append(make_job(**changes))
    names = [run_name(job) for job in jobs]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) for name in names)
    assert (names[0] == names[1]) == (jobs[0] == jobs[1])
    assert run_name(jobs[0].model_copy(update={"output_dir": "x/y"})) == names[0]


def test_a_key_that_a_later_version_adds_leaves_the_names_of_runs_as_they_are() -> None:
    """A job that states a default is the job that leaves it out; only what differs is in the name."""
    job = make_job(partition={"alpha": 0.3})
    stated = make_job(**job.model_dump(exclude={"output_dir", "dataset_text_field"}))
    assert run_name(stated) == run_name(job) != run_name(make_job())
    made = job.model_dump(mode="json")
    del made["network"]["probe"]  # nor does one that it adds to a section
    assert changed_key({**made, "a_later_key": 1, "output_dir": "elsewhere"}, job) is None
    del made["rounds"]
    assert changed_key(made, job) is None
    assert changed_key({**made, "partition": {"alpha": 0.9}}, job) == "partition.alpha"
    assert changed_key({**made, "data_files": {"anna": "a.txt"}}, job) == "data_files"


# Progress


def test_how_far_a_run_is_comes_from_its_history(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    assert read_advance(history, 4) == Advance(4)
    record = {"round": 0, "round_seconds": 0.0, "evaluation_seconds": 2.0, "perplexity": 50.0}
    later = {"round": 1, "round_seconds": 3.0, "evaluation_seconds": None, "perplexity": None}
    history.write_text(json.dumps(record) + "\n" + json.dumps(later) + '\n{"round": 2, "ro')
    assert read_advance(history, 4) == Advance(total=4, done=2, seconds=5.0, perplexity=50.0)


@given(
    st.lists(
        st.integers(1, 20).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total))), min_size=1
    ),
    st.floats(0.1, 100),
    st.integers(1, 8),
)
def test_time_left_is_exact_where_all_rounds_take_alike(
    runs: list[tuple[int, int]], seconds: float, parallel: int
) -> None:
    advances = [Advance(total, done, done * seconds) for total, done in runs]
    left = seconds_left(advances, parallel)
    rounds = sum(total - done for total, done in runs)
    if not any(done for _, done in runs):
        assert left is None
    elif parallel == 1:
        assert left == pytest.approx(rounds * seconds)
    else:
        assert left is not None
        assert rounds * seconds / parallel * (1 - 1e-9) <= left <= rounds * seconds * (1 + 1e-9)


def test_a_run_that_has_not_begun_takes_its_loading_too() -> None:
    advances = [Advance(4, 4, 8.0), Advance(4, 2, 4.0), Advance(4)]
    assert seconds_left(advances, 1, around=10.0) == 2 * 2 + 4 * 2 + 10
    assert seconds_left(advances, 2, around=10.0) == (2 * 2 + 4 * 2 + 10) / 2
    assert seconds_left(advances[:1], 2, around=10.0) == 0


def test_cores_are_divided_among_the_runs() -> None:
    assert thread_settings(1, 8) == {"OMP_NUM_THREADS": "8"}
    assert thread_settings(3, 8) == {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    assert thread_settings(9, 8)["OMP_NUM_THREADS"] == "1"


def test_the_reason_of_a_failure_is_the_last_error_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert reason_of(log, 3) == "exit code 3, nothing printed"
    log.write_text("reading\nerror: one\n\nmore\nerror: no such model\n  try another\n\n")
    assert reason_of(log, 4) == "error: no such model\n  try another"
    log.write_text("Traceback:\n  in f\nKeyError: 'x'\nerror: this is a bug in SplitFT; please\n")
    assert reason_of(log, 1) == "KeyError: 'x'\nerror: this is a bug in SplitFT; please"
    log.write_text("\n".join(f"line {i}" for i in range(20)))
    assert reason_of(log, -9).startswith("line 14\n")
    assert reason_of(log, -9).endswith("ended by signal 9: out of memory?")

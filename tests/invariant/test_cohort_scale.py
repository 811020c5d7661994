"""Promises of benchmarks/cohort_scale.py: mixes are exact; a cohort of one costs what its run costs."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from plans import DEVICES, planned
from runs import QUIET, Settings

from cases import rest_slow
from repository import ROOT
from splitft import Job
from splitft.devices.presets import PRESETS
from splitft.errors import JobError

sys.path.insert(0, str(ROOT / "benchmarks"))

import cohort_scale
from cohort_scale import draw_cohort, draw_devices, parse_mix

MIX = "phone=0.5,laptop=0.3,workstation=0.2"
SHARES = st.dictionaries(st.sampled_from(sorted(PRESETS)), st.integers(0, 20), min_size=1).filter(
    lambda mix: sum(mix.values()) > 0
)


def cohort(
    settings: Settings, clients: int, mix: str, per_round: int | None = None, **changes: Any
) -> dict[str, Any]:
    job = Job(**settings | changes)
    devices = draw_cohort(job, clients, parse_mix(mix))
    return cohort_scale.plan_cohort(job, devices, QUIET, per_round).to_dict()


# Mixes


@tries(deadline=None)
@given(mix=SHARES, count=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_a_mix_is_dealt_exact_to_one_client_whatever_its_order(
    mix: dict[str, int], count: int, seed: int
) -> None:
    drawn = draw_devices(mix, count, seed)
    assert len(drawn) == count
    counts, total = Counter(drawn), sum(mix.values())
    assert set(counts) <= set(mix)
    for name, share in mix.items():
        assert abs(counts[name] - count * share / total) < 1
    assert draw_devices(dict(reversed(mix.items())), count, seed) == drawn
    assert draw_devices({name: share / 8 for name, share in mix.items()}, count, seed) == drawn


def test_a_mix_is_shuffled_by_the_seed() -> None:
    mix = {"phone": 1.0, "laptop": 1.0}
    assert len({tuple(draw_devices(mix, 30, seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("mix", [{}, {"phone": 0}, {"phone": -1, "laptop": 2}, {"phone": float("nan")}])
def test_shares_that_are_no_shares_are_refused(mix: dict[str, float]) -> None:
    with pytest.raises(JobError, match="shares"):
        draw_devices(mix, 3, 0)


def test_no_devices_are_drawn_for_no_clients() -> None:
    with pytest.raises(JobError, match="0 clients"):
        draw_devices({"phone": 1}, 0, 0)


# Rounds


@pytest.fixture(scope="module")
def scale_plan(settings_of: Any) -> dict[str, Any]:
    return cohort(settings_of("llama"), 500, MIX)


def test_a_large_cohort_has_the_devices_of_its_mix(scale_plan: dict[str, Any]) -> None:
    assert scale_plan["clients"] == scale_plan["present"] == 500
    assert Counter(scale_plan["devices"]) == {"phone": 250, "laptop": 150, "workstation": 100}
    assert len(scale_plan["cuts"]) == len(scale_plan["finished_seconds"]) == 500
    assert scale_plan["devices"][:250].count("phone") not in (0, 250)  # in random order


def test_a_large_cohort_ends_with_its_last_client(scale_plan: dict[str, Any]) -> None:
    finished = scale_plan["finished_seconds"]
    assert min(finished) > 0
    assert max(finished) == scale_plan["round_seconds"]
    assert 0 <= scale_plan["server_seconds"] / scale_plan["round_seconds"] <= 1
    slowest = max(range(500), key=finished.__getitem__)
    assert scale_plan["devices"][slowest] == "phone"
    assert scale_plan["server_memory_bytes"] > 0


def test_a_large_plan_is_the_same_each_time_and_follows_the_seed(
    scale_plan: dict[str, Any], settings_of: Any
) -> None:
    again = cohort(settings_of("llama"), 500, "workstation=2,phone=5,laptop=3")
    assert again == scale_plan  # shares are relative, and their order does not matter
    other = cohort(settings_of("llama"), 500, MIX, seed=7)
    assert other["devices"] != scale_plan["devices"]
    assert Counter(other["devices"]) == Counter(scale_plan["devices"])


def test_traffic_grows_with_the_cohort(scale_plan: dict[str, Any], settings_of: Any) -> None:
    few = cohort(settings_of("llama"), 50, MIX)
    for way in ("bytes_up", "bytes_down"):  # batches differ, so only about ten times as much
        assert scale_plan[way] == pytest.approx(10 * few[way], rel=0.1)


def test_a_large_plan_of_one_client_is_the_small_one(settings_of: Any, tmp_path: Path) -> None:
    """Rows of one length leave nothing to chance: then a cohort of one costs what its run costs.

    What the large plan leaves out is what it says: headers and gradient norms.
    """
    rows = tmp_path / "rows.txt"
    rows.write_text("\n\n".join(["the people of the states " * 20] * 30), encoding="utf-8")
    settings = settings_of("gpt2") | {
        "data_files": str(rows), "clients": 1, "rounds": 2, "partition": {"method": "iid"}, "eval_every": 2,
        "devices": "phone", "lora_r_cut": 2, "per_device_train_batch_size": 3,
    }  # fmt: skip
    plan = planned(settings)
    large = cohort(settings, 1, "phone=1")
    second = plan["rounds"][2]  # the first lacks less, since its adapter was handed out to be evaluated
    up, down = second["bytes"]["up"], second["bytes"]["down"]
    assert large["bytes_up"] == up["activations"] + up["labels"] + up["adapter"]
    assert large["bytes_down"] == down["gradients"] + up["adapter"]
    assert large["cuts"] == [2]
    assert large["round_seconds"] == pytest.approx(second["virtual_seconds"], rel=1e-3)
    assert large["round_seconds"] < second["virtual_seconds"]


@pytest.mark.parametrize(("method", "policy"), rest_slow([
    ("splitft", {"method": "makespan", "min_cut": 2}),
    ("splitft", {"method": "resource"}),
    ("splitft", {"method": "splitft"}),
    ("same_split", {"method": "makespan"}),
], 1))  # fmt: skip
def test_a_large_cohort_starts_with_its_policys_cuts(method: str, policy: Settings, settings_of: Any) -> None:
    settings = settings_of("llama") | {"method": method, "cut_policy": policy, "cuts": 3, "devices": "slow"}
    settings |= {"device_profiles": DEVICES["device_profiles"]}
    plan = cohort(settings, 60, "slow=0.5,fast=0.5")
    by_device = {
        device: {cut for cut, kind in zip(plan["cuts"], plan["devices"], strict=True) if kind == device}
        for device in ("slow", "fast")
    }
    assert all(policy.get("min_cut", 1) <= cut <= 5 for cuts in by_device.values() for cut in cuts)
    if method == "same_split":
        assert by_device == {"slow": {3}, "fast": {3}}
    else:
        assert max(by_device["slow"]) < min(by_device["fast"])


def test_only_those_who_are_there_take_part(settings_of: Any) -> None:
    settings = settings_of("llama") | {"device_profiles": {"rare": {"availability": 0.25}}}
    plan = cohort(settings, 400, "rare=1")
    assert 60 < plan["present"] < 140
    assert len(plan["cuts"]) == len(plan["finished_seconds"]) == plan["present"]
    assert cohort(settings, 400, "rare=1", clients_per_round=3)["present"] == 3


def test_a_large_plan_is_drawn(
    settings_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(settings_of("llama")), encoding="utf-8")
    cohort_scale.main([str(job), "--clients", "500", "--mix", MIX, "seed=7", "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert all(word in told for word in ("phone", "laptop", "workstation", "server"))
    plan = json.loads((tmp_path / "out/plan.json").read_text(encoding="utf-8"))
    assert plan["clients"] == 500
    assert (tmp_path / "out/plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("clients", "mix", "told"), [
    (0, MIX, "0 clients"),
    (-5, MIX, "-5 clients"),
    (500, "", "write devices with their shares"),
    (500, "phone", "write devices with their shares"),
    (500, "phone=lots", "write devices with their shares"),
    (500, "=1", "write devices with their shares"),
    (500, "phone=1,", "write devices with their shares"),
    (500, "phone=-1,laptop=2", "shares must be numbers from 0 on"),
    (500, "phone=nan", "shares must be numbers from 0 on"),
    (500, "phone=0", "not all 0"),
    (500, "phon=1", "did you mean phone?"),
    (500, "phone=1,phone=2", "phone is given twice"),
    (500, "laptop=1,phon=0", "did you mean phone?"),
])  # fmt: skip
def test_a_mix_that_is_none_is_refused(clients: int, mix: str, told: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as refused:
        cohort_scale.main(["fixed-cuts", "--clients", str(clients), f"--mix={mix}", "--out", str(out)])
    assert told in str(refused.value)
    assert not out.exists()


def test_a_device_of_the_mix_that_is_too_small_is_told(settings_of: Any) -> None:
    small = {"devices": "laptop", "device_profiles": {"mine": {"memory_gb": 1e-6}}}
    with pytest.raises(JobError, match="device mine has 1e-06 GB of memory, but a client with 1 block "):
        cohort(settings_of("llama"), 20, "laptop=0.9,mine=0.1", **small)


def test_a_device_with_a_share_of_nothing_need_not_fit(settings_of: Any) -> None:
    plan = cohort(settings_of("llama"), 10, "laptop=1,phone=0")
    assert plan["devices"] == ["laptop"] * 10


def test_baselines_have_no_cuts_to_plan_at_scale(settings_of: Any) -> None:
    for method in ("fed_lora", "local_only", "centralized"):
        with pytest.raises(JobError, match=method):
            cohort(settings_of("llama"), 9, "phone=1", method=method)


def test_a_round_that_the_servers_memory_does_not_hold_is_refused(settings_of: Any) -> None:
    """What is told of it holds: with so many clients there is a plan, and with one more there is none."""
    whole = cohort(settings_of("llama"), 200, MIX)
    half = {"memory_gb": whole["server_memory_bytes"] / 2e9}
    settings = settings_of("llama") | {"server_device": "mine", "device_profiles": {"mine": half}}
    with pytest.raises(JobError, match=r"server_device mine has .* but a round of 200 clients") as refused:
        cohort(settings, 200, MIX)
    fits = int(re.search(r"--per-round (\d+)", str(refused.value))[1])  # type: ignore[index]
    assert 0 < fits < 200
    assert "server_adapter=shared" in str(refused.value)
    plan = cohort(settings, 200, MIX, per_round=fits)
    assert plan["present"] == fits
    assert plan["server_memory_bytes"] <= whole["server_memory_bytes"] / 2
    with pytest.raises(JobError, match=f"--per-round {fits}"):
        cohort(settings, 200, MIX, per_round=fits + 1)
    tiny = {"device_profiles": {"mine": {"memory_gb": 1e-6}}}
    with pytest.raises(JobError, match="not even one of them fits"):
        cohort(settings | tiny, 20, MIX)

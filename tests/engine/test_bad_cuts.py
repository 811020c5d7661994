"""Bad input about cuts and devices: one clear message, its exit code, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_jobs import QUIET, Settings, assert_one_message, devices, refused, write_job

from cases import rest_slow
from commands import hashes
from splitft import Job, run
from splitft.errors import JobError
from splitft.tools.plan.command import plan_command

Case = Callable[[Settings], tuple[str, ...]]


# What is made wrong; each change returns what must be told.


def memory(job: Settings, cut: int, party: str = "client") -> float:
    """GB that a party needs when all cuts are `cut`."""
    rows = plan_command(Job(**{**job, "cut_policy": {}, "cuts": cut}), console=QUIET)["cuts"]
    return float(rows[cut - 1][f"{party}_memory_bytes"] / 1e9)


def no_memory_at_all(job: Settings) -> tuple[str, ...]:
    devices(job, memory_gb=1e-6)
    return ("device mine", "1e-06 GB", "1 block ", "max_length", "another device")


def no_memory_for_the_lowest_cut(job: Settings) -> tuple[str, ...]:
    job.update(cuts=3, cut_policy={"method": "makespan", "min_cut": 3})
    devices(job, memory_gb=memory(job, 2))
    return ("device mine", "3 blocks", "cut_policy.min_cut", "another device")


def no_memory_for_the_cut(job: Settings) -> tuple[str, ...]:
    devices(job, memory_gb=memory(job, 1))
    return ("cuts: client client-0 (mine", "cannot hold 2 blocks", "its cut to 1")


def no_memory_for_a_later_cut(job: Settings) -> tuple[str, ...]:
    devices(job, memory_gb=memory(job, 2))
    job.update(rounds=2, cut_policy={"method": "schedule", "schedule": {"2": [2, 3]}})
    return ("cut_policy.schedule (round 2)", "client-1", "cannot hold 3 blocks", "its cut to 2")


def no_memory_at_the_server(job: Settings) -> tuple[str, ...]:
    devices(job, memory_gb=0.9 * memory(job, 2, "server"))
    job.update(devices="laptop", server_device="mine")
    return ("server_device mine", "2 clients", "larger device", "server_adapter: shared")


def negative_gamma(job: Settings) -> tuple[str, ...]:
    job["cut_policy"] = {"method": "splitft", "gamma": -0.1}
    return ("cut_policy.gamma", "≥ 0", "-0.1")


def crossed_bounds(job: Settings) -> tuple[str, ...]:
    job["cut_policy"] = {"method": "accuracy", "min_cut": 3, "max_cut": 2}
    return ("cut_policy.min_cut", "3 is more than cut_policy.max_cut (2)")


def cut_below_its_bound(job: Settings) -> tuple[str, ...]:
    job["cut_policy"] = {"method": "accuracy", "min_cut": 3}
    return ("cuts: 2 is less than cut_policy.min_cut (3)",)


def bound_above_the_model(job: Settings) -> tuple[str, ...]:
    job.update(cuts=9, cut_policy={"method": "accuracy", "min_cut": 9})
    return ("cut_policy.min_cut must be at most 3", "4 blocks", "got 9")


def weight_that_excludes_the_start(job: Settings) -> tuple[str, ...]:
    job["cut_policy"] = {"method": "accuracy", "w_min": 1.5}
    return ("cut_policy.w_min", "at most 1", "1.5")


def unknown_device(job: Settings) -> tuple[str, ...]:
    job["devices"] = ["laptop", "Edge-Bx"]
    return ("devices: there is no device 'Edge-Bx'", "did you mean edge_box?", "phone")


def unknown_server(job: Settings) -> tuple[str, ...]:
    job.update(devices="laptop", server_device="gpuserver")
    return ("server_device: there is no device 'gpuserver'", "did you mean gpu_server?")


def unknown_preset(job: Settings) -> tuple[str, ...]:
    devices(job, preset="labtop")
    return ("device_profiles.mine.preset", "'labtop'", "did you mean laptop?")


def preset_given_anew(job: Settings) -> tuple[str, ...]:
    job.update(devices="laptop", device_profiles={"laptop": {"slowdown": 2.0}})
    return ("device_profiles.laptop", "preset: laptop")


def impossible_profile(job: Settings) -> tuple[str, ...]:
    devices(job, memory_gb=0, availability=1.5, slowdown=-1)
    return ("memory_gb", "availability", "slowdown", "3 problems")


def too_few_devices(job: Settings) -> tuple[str, ...]:
    job["devices"] = ["laptop"]
    return ("devices: needs one entry per client: clients is 2, the list has 1",)


def natural_sites(job: Settings) -> None:
    job["data_files"] = dict.fromkeys(("north", "south"), job["data_files"])
    del job["clients"]


def too_few_devices_for_sites(job: Settings) -> tuple[str, ...]:
    natural_sites(job)
    job["devices"] = ["laptop"]
    return ("devices: 1 entries for 2 clients (north, south)", "one for all")


def device_of_a_stranger(job: Settings) -> tuple[str, ...]:
    job["devices"] = {"client-0": "laptop", "client-7": "phone"}
    return ("devices: there is no client 'client-7'", "did you mean client-")


def client_without_a_device(job: Settings) -> tuple[str, ...]:
    job["devices"] = {"client-0": "laptop"}
    return ("devices: no device for client-1",)


def misspelt_policy(job: Settings) -> tuple[str, ...]:
    job["cut_policy"] = {"method": "makspan"}
    return ("cut_policy.method", "makspan", "did you mean makespan?", "register_cut_policy")


def makespan_without_devices(job: Settings) -> tuple[str, ...]:
    job["cut_policy"] = {"method": "makespan"}
    return ("devices", "cut_policy.method makespan", "e.g. devices: laptop")


def resource_without_devices(job: Settings) -> tuple[str, ...]:
    job["cut_policy"] = {"method": "resource"}
    return ("devices", "cut_policy.method resource")


def schedule(job: Settings, entries: Any, method: str = "schedule") -> None:
    job["cut_policy"] = {"method": method, "schedule": entries}


def no_schedule(job: Settings) -> tuple[str, ...]:
    schedule(job, None)
    return ("cut_policy.schedule", "at least one entry")


def schedule_of_another_policy(job: Settings) -> tuple[str, ...]:
    schedule(job, {"1": 2}, "accuracy")
    return ("cut_policy.schedule", "for method schedule, not accuracy")


def schedule_without_rounds(job: Settings) -> tuple[str, ...]:
    schedule(job, {"first": 2, "0": 1})
    return ("cut_policy.schedule", "'first' is not the number of a round", "'0' is not")


def scheduled_cut_of_nothing(job: Settings) -> tuple[str, ...]:
    schedule(job, {"1": [1, 0]})
    return ("cut_policy.schedule", "≥ 1", "0")


def short_schedule(job: Settings) -> tuple[str, ...]:
    schedule(job, {"1": [1, 2], "3": [1, 2, 3]})
    return ("cut_policy.schedule: round 3: needs one entry per client: clients is 2, the list has 3",)


def short_schedule_for_sites(job: Settings) -> tuple[str, ...]:
    natural_sites(job)
    schedule(job, {"1": 2, "3": [1, 2, 3]})
    return ("cut_policy.schedule (round 3): 3 entries for 2 clients (north, south)",)


def schedule_beyond_the_model(job: Settings) -> tuple[str, ...]:
    schedule(job, {"1": 2, "5": [1, 4]})
    return ("cut_policy.schedule (round 5) must lie between 1 and 3", "4 blocks", "client-1: 4")


def schedule_beyond_its_bounds(job: Settings) -> tuple[str, ...]:
    schedule(job, {"2": 3})
    job["cut_policy"]["max_cut"] = 2
    return ("cut_policy.schedule: round 2: 3 is more than cut_policy.max_cut (2)",)


CASES: tuple[Case, ...] = (
    no_memory_at_all, no_memory_for_the_lowest_cut, no_memory_for_the_cut, no_memory_for_a_later_cut,
    no_memory_at_the_server, negative_gamma, crossed_bounds, cut_below_its_bound, bound_above_the_model,
    weight_that_excludes_the_start, unknown_device, unknown_server, unknown_preset, preset_given_anew,
    impossible_profile, too_few_devices, too_few_devices_for_sites, device_of_a_stranger,
    client_without_a_device, misspelt_policy, makespan_without_devices, resource_without_devices, no_schedule,
    schedule_of_another_policy, schedule_without_rounds, scheduled_cut_of_nothing, short_schedule,
    short_schedule_for_sites, schedule_beyond_the_model, schedule_beyond_its_bounds,
)  # fmt: skip


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("case", rest_slow(CASES, 8), ids=lambda case: case.__name__)
def test_run_and_plan_refuse_it_with_one_message_and_write_nothing(
    case: Case,
    command: str,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = case(settings)
    job = write_job(settings, tmp_path)
    before = hashes(tmp_path)
    assert_one_message(refused(monkeypatch, capsys, command, job), wanted)
    after = hashes(tmp_path)
    assert {path: digest for path, digest in after.items() if path != "out"} == before
    assert not any((tmp_path / "out").glob("*"))  # an empty folder at most


@pytest.mark.parametrize("method", ["same_split", "fed_lora", "local_only", "centralized"])
def test_baselines_name_an_unknown_device_too(method: str, settings: Settings) -> None:
    with pytest.raises(JobError, match="did you mean laptop"):
        run(Job(**settings, method=method, devices="lapptop"), console=QUIET)

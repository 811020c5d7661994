"""Bad input about cuts, devices, plans and comparisons: one clear message, its exit code, nothing lost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from peft import AutoPeftModelForCausalLM
from rich.console import Console
from test_bad_input import assert_one_message, hashes, write_job

import splitft
from splitft import Job, run
from splitft.cuts import Observation, Proposal
from splitft.errors import JobError
from splitft.job import CutPolicyConfig
from splitft.launch import cli
from splitft.tools.plan.command import plan_command
from tiny import save_tiny_model

QUIET = Console(quiet=True)
Settings = dict[str, Any]
Case = Callable[[Settings], tuple[str, ...]]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A good job on a model of 4 blocks; each case makes one thing wrong."""
    folder = tmp_path_factory.mktemp("good")
    rows = [f"the people of the united states made law number {i}" for i in range(40)]
    (folder / "rows.txt").write_text("\n\n".join(rows), encoding="utf-8")
    return {
        "model_name_or_path": str(save_tiny_model(folder / "model", "gpt2")),
        "data_files": str(folder / "rows.txt"),
        "max_length": 32, "clients": 2, "rounds": 1, "local_steps": 1, "cuts": 2, "lora_r": 4,
        "use_cpu": True,
    }  # fmt: skip


@pytest.fixture
def settings(good: Settings, tmp_path: Path) -> Settings:
    return good | {"output_dir": str(tmp_path / "out")}


# What is made wrong; each change returns what must be told.


def memory(job: Settings, cut: int, party: str = "client") -> float:
    """GB that a party needs when all cuts are `cut`."""
    rows = plan_command(Job(**{**job, "cut_policy": {}, "cuts": cut}), console=QUIET)["cuts"]
    return float(rows[cut - 1][f"{party}_memory_bytes"] / 1e9)


def devices(job: Settings, **profile: Any) -> None:
    job.update(devices="mine", device_profiles={"mine": profile})


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
    return ("devices: 1 entries for 2 clients (north, south)", "one name for all")


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
    return ("cut_policy.schedule (round 3) has 3 entries for 2 clients (north, south)",)


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


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> str:
    """Run a command that must be refused with code 2; return what it told."""
    monkeypatch.setattr("sys.argv", ["splitft", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    return error


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
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


# Policies of a user's own


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


@pytest.mark.parametrize("name", NONSENSE)
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


@pytest.mark.parametrize("targets", [1e300, -1e300, 0, 2.4999])
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


# plan, compare and report


def test_a_plan_that_cannot_be_made(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(settings, tmp_path)
    told = refused(monkeypatch, capsys, "plan", job, "gama=1", "--out", tmp_path / "plan")
    assert_one_message(told, ("gama", "unknown key"))
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize(("arguments", "wanted"), [
    (["--methods", "same_split,makspan"], ("'makspan'", "did you mean makespan?")),
    (["--methods", "fed_lora,fed_lora"], ("fed_lora is given twice",)),
    (["--methods", "makespan"], ("makespan", "devices")),
    (["--vary", "lora_rcut=[1,2]"], ("lora_rcut", "unknown key", "lora_r_cut")),
    (["--vary", "cut_policy.gama=[0,1]"], ("cut_policy.gama", "did you mean gamma?")),
    (["--vary", "lora_r_cut=4"], ("--vary lora_r_cut", "KEY=[V1,V2,...]")),
    (["--vary", "cut_policy.gamma=[0.5,-1]"], ("cut_policy.gamma", "≥ 0", "-1")),
    (["--vary", "devices=[laptop,lapptop]"], ("there is no device 'lapptop'", "did you mean laptop?")),
    (["--vary", "seed=[1,2]"], ("--vary seed", "--seeds N")),
    (["--seeds", "0"], ("--seeds: at least 1, not 0",)),
    (["--parallel", "0"], ("--parallel: at least 1, not 0",)),
    (["roundz=3"], ("roundz", "did you mean rounds?")),
    (["--seeds", "0", "--methods", "x", "rounds=0"], ("3 problems", "--seeds", "'x'", "rounds")),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_a_comparison_that_cannot_be_made(
    arguments: list[str],
    wanted: tuple[str, ...],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = write_job(settings, tmp_path)
    told = refused(monkeypatch, capsys, "compare", job, *arguments, "--out", tmp_path / "compared")
    assert_one_message(told, (*wanted, "nothing was started"))
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_a_report_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    before = hashes(tmp_path)
    for name in ("empty", "file", "missing"):
        told = refused(monkeypatch, capsys, "report", tmp_path / name, "--out", tmp_path / "page.html")
        assert_one_message(told, (name, "output_dir", "folder of runs"))
    assert hashes(tmp_path) == before

"""A plan is the run without its training: the same bytes, cuts and virtual seconds, and no weights at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from plans import DEVICES, assert_is_the_run, planned
from runs import QUIET, Settings, trained

from cases import rest_slow
from commands import splitft
from reference import make_hybrid_setting, write_rows
from splitft import Job
from splitft.errors import ModelError, OutputError
from splitft.tools.plan.command import plan_command

MOVES = {"method": "schedule", "schedule": {"1": [1, 2, 3, 4], "2": [4, 1, 3, 2], "4": [2, 3, 3, 1]}}
MUCH_TO_EVALUATE = {"eval_fraction": 0.6, "max_eval_samples": 36}  # sums of several digits
FEW_MOVES = {"method": "schedule", "schedule": {"1": [1, 2, 3, 1], "3": [3, 1, 3, 2]}}
JOBS: dict[str, tuple[str, Settings]] = {
    "llama, other cuts": ("llama", {"cuts": [1, 3, 5, 2], **MUCH_TO_EVALUATE}),
    "gpt2, labels at home, accumulation": (
        "gpt2",
        {
            "labels": "client", "tail_blocks": 2, "cuts": [1, 3, 2, 1], "gradient_accumulation_steps": 3,
            **MUCH_TO_EVALUATE,
        },
    ),
    "opt, shared trunk in turns, never clipped": (
        "opt",
        {"server_adapter": "shared", "order": "turns", "cuts": [1, 3, 5, 2], "max_grad_norm": 0.0, **DEVICES},
    ),
    "gpt_neo, bf16, lower rank at the cut": (
        "gpt_neo",
        {"bf16": True, "lora_r_cut": 2, "cuts": [1, 3, 5, 2], "adapter_name_or_path": None},
    ),
    "llama, moving cuts, lower rank": ("llama", {"cut_policy": MOVES, "lora_r_cut": 2}),
    "llama, moving cuts, exact mean, lower rank on one side": (
        "llama",
        {"cut_policy": MOVES, "lora_r_cut": 1, "lora_r_cut_side": "client", "aggregation": "exact"},
    ),
    "gpt2, moving cuts, frozen A, shared trunk": (
        "gpt2",
        {"cut_policy": MOVES, "lora_r_cut": 2, "aggregation": "freeze_a", "server_adapter": "shared"},
    ),
    "opt, moving cuts, frozen A, labels at home": (
        "opt",
        {
            "cut_policy": FEW_MOVES, "lora_r_cut": 2, "aggregation": "freeze_a", "labels": "client",
            "tail_blocks": 1, "server_adapter": "shared", "order": "turns", **DEVICES,
        },
    ),
    "qwen3, makespan, sampled clients, some absent": (
        "qwen3",
        {
            "cut_policy": {"method": "makespan", "min_cut": 2}, "clients_per_round": 2, "eval_every": 3,
            "lora_r_cut": 3, "gradient_accumulation_steps": 2, "cuts": 4, **DEVICES,
        },
    ),
    "llama, rounds that nobody comes to": (
        "llama",
        {"clients": 2, "cuts": [2, 4], "devices": "rare", "device_profiles": {"rare": {"availability": 0.1}}},
    ),
    "gemma3, resource, rows packed": (
        "gemma3_text",
        {"cut_policy": {"method": "resource", "max_step": 1}, "packing": True, "max_length": 16, **DEVICES},
    ),
    "llama, long rows in chunks, an evaluation set": (
        "llama", {"truncation_mode": "chunk", "max_length": 10, "eval_files": "rows.txt", **DEVICES},
    ),
    "llama, three bits and two": ("llama", {"codec": "int3", "gradient_codec": "int2", **DEVICES}),
    "llama, frozen fronts": (
        "llama",
        {
            "train_front": False, "cuts": [1, 3, 2, 2], "codec": "int4", "local_steps": 6, "lora_r_cut": 2,
            "adapter_name_or_path": None, **DEVICES,
        },
    ),
    "llama, differences, some of them kept": (
        "llama", {"codec": "delta", "local_steps": 8, "activation_cache_gb": 1.2e-5, **DEVICES},
    ),
    "gpt2, int8, labels at home, bf16": (
        "gpt2",
        {
            "codec": "int8", "eval_codec": "int4", "labels": "client", "tail_blocks": 1, "bf16": True,
            **DEVICES,
        },
    ),
    "llama, recomputed blocks, all labels at home, bf16": (
        "llama",
        {
            "gradient_checkpointing": True, "labels": "client", "tail_blocks": 4, "cuts": 1, "bf16": True,
            **DEVICES,
        },
    ),
    "gpt2, same_split": (
        "gpt2",
        {"method": "same_split", "cuts": [1, 2, 3, 5], "cut_policy": MOVES, **DEVICES},
    ),
    "gpt2, fed_lora": ("gpt2", {"method": "fed_lora", "clients_per_round": 3, "lora_r_cut": 2, **DEVICES}),
    "llama, fed_lora, frozen A": (
        "llama",
        {"method": "fed_lora", "aggregation": "freeze_a", "eval_every": 2},
    ),
    "llama, fed_lora, masked sums": (
        "llama",
        {
            "method": "fed_lora", "secure_aggregation": True, "robust_aggregation": "none",
            "clients_per_round": 3,
        },
    ),
    "llama, DoRA, moving cuts, lower rank": (
        "llama", {"use_dora": True, "cut_policy": MOVES, "lora_r_cut": 2, "adapter_name_or_path": None},
    ),
    "llama, PiSSA, a pattern in some blocks": (
        "llama",
        {
            "init_lora_weights": "pissa", "lora_target_modules": r".*\.[qv]_proj",
            "adapter_name_or_path": None, "layers_to_transform": [0, 3, 4], **DEVICES,
        },
    ),
    "llama, local_only": ("llama", {"method": "local_only", **DEVICES}),
    "gpt2, centralized": ("gpt2", {"method": "centralized", "gradient_accumulation_steps": 2, **DEVICES}),
}  # fmt: skip


QUICK = [
    "llama, moving cuts, exact mean, lower rank on one side", "gpt2, int8, labels at home, bf16",
]  # fmt: skip


@pytest.mark.parametrize("case", rest_slow(JOBS, QUICK))
def test_bytes_cuts_and_seconds_of_a_plan_are_those_of_the_run(
    case: str, settings_of: Any, tmp_path: Path
) -> None:
    model_type, changes = JOBS[case]
    settings = settings_of(model_type) | {"output_dir": str(tmp_path / "run")}
    if "eval_files" in changes:
        changes = changes | {"eval_files": str(write_rows(tmp_path / changes["eval_files"], 17, seed=5))}
    plan = planned(settings, **changes)
    assert not (tmp_path / "run").exists()
    _, result = trained(settings, tmp_path / "run", **changes)
    assert_is_the_run(plan, result)
    assert (plan["virtual_seconds"] is not None) == ("devices" in changes)
    assert any(not record.cohort for record in result.history[1:]) == ("nobody" in case)
    if "cut_policy" in changes and changes.get("method") != "same_split":
        seen = {tuple(cuts.values()) for cuts in (line["cuts"] for line in plan["rounds"])}
        assert len(seen) > 1, "no cut moved: the case proves less than it says"


def test_a_plan_holds_for_blocks_without_a_target_module(tmp_path: Path) -> None:
    """In a hybrid model only some blocks have adapters; a front may have none, and no optimizer state."""
    moves = {"method": "schedule", "schedule": {"1": [1, 2], "2": [3, 1]}}
    settings = make_hybrid_setting(tmp_path, rounds=3, lora_r_cut=2, devices="laptop", cut_policy=moves)
    plan = planned(settings)
    _, result = trained(settings, tmp_path / "run")
    assert_is_the_run(plan, result)


# The command


def test_the_command_line_plans_what_it_then_runs(
    settings_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    settings = settings_of("llama") | {"cuts": [1, 3, 5, 2], "lora_r_cut": 2, **DEVICES}
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(settings | {"output_dir": str(tmp_path / "run")}), encoding="utf-8")
    assert splitft("plan", job, "rounds=2", "--out", tmp_path / "a/plan", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "a/plan").iterdir()} == {"plan.json", "plan.png"}
    assert (tmp_path / "a/plan/plan.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "run").exists()
    plan = json.loads((tmp_path / "a/plan/plan.json").read_text(encoding="utf-8"))
    assert splitft("run", job, "rounds=2", monkeypatch=monkeypatch) == 0
    lines = (tmp_path / "run/history.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    keys = ("round", "cuts", "bytes", "virtual_seconds")
    assert plan["rounds"] == [{key: line[key] for key in keys} for line in history]
    assert len(history) == 3
    for way, kinds in plan["bytes"].items():  # what people read are the same figures
        for kind, number in kinds.items():
            assert any(line.split()[:1] == [kind] and f"{number:,}" in line for line in told.splitlines()), (
                way,
                kind,
            )
    policies = {start["policy"]: start for start in plan["policies"]}
    assert {"fixed", "resource", "accuracy", "splitft", "makespan"} <= policies.keys()
    assert policies["fixed"]["cuts"] == history[1]["cuts"]
    assert [row["cut"] for row in plan["cuts"]] == [1, 2, 3, 4, 5]


def test_a_plan_needs_no_weights(settings_of: Any, tmp_path: Path) -> None:
    """A configuration and a tokenizer are enough: a model too large for this machine can be planned."""
    settings = settings_of("gpt2")
    whole = planned(settings)
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in Path(settings["model_name_or_path"]).iterdir():
        if path.suffix != ".safetensors":
            (bare / path.name).write_bytes(path.read_bytes())
    assert planned(settings, model_name_or_path=str(bare)) == whole
    with pytest.raises(ModelError, match="safetensors"):
        trained(settings, tmp_path / "run", model_name_or_path=str(bare))


def test_each_policy_starts_as_the_plan_says(settings_of: Any, tmp_path: Path) -> None:
    settings = settings_of("llama") | DEVICES | {"rounds": 1, "warmup_steps": 0, "cuts": 3}
    plan = planned(settings)
    starts = {start["policy"]: start["cuts"] for start in plan["policies"]}
    assert len({tuple(cuts.values()) for cuts in starts.values()}) > 1
    for policy in ("fixed", "resource", "makespan"):
        _, result = trained(settings, tmp_path / policy, cut_policy={"method": policy})
        assert result.history[1].cuts == starts[policy], policy


def test_without_devices_a_plan_has_bytes_and_memory_but_no_time(settings_of: Any) -> None:
    plan = planned(settings_of("llama"))
    assert plan["virtual_seconds"] is None
    assert all(row["round_seconds"] is None for row in plan["cuts"])
    problems = {start["policy"]: start["problem"] for start in plan["policies"]}
    assert all("set `devices`" in str(problems[name]) for name in ("makespan", "resource"))
    assert problems["fixed"] is None
    memory = [row["client_memory_bytes"] for row in plan["cuts"]]
    assert memory == sorted(memory)
    server = [row["server_memory_bytes"] for row in plan["cuts"]]
    assert server == sorted(server, reverse=True)
    assert min(memory + server) > 0


def test_a_plan_says_where_it_cannot_write(settings_of: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file/below", Path("/proc")):
        with pytest.raises(OutputError, match=f"--out {out} cannot be written"):
            plan_command(Job(**settings_of("llama")), out=out, console=QUIET)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"

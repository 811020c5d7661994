"""I1, I2, I3 and I4 for peft's variants: scaling, targets, DoRA, LoRA+; references are stock peft."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora import LoraLayer
from peft_runs import MOVES, check_export, fresh, one_client, started_by_peft
from runs import (
    THREE_CLIENTS,
    Settings,
    assert_same_bits,
    assert_same_losses,
    final_adapter,
    trained,
    tuned,
)
from safetensors.torch import load_file

from cases import rest_slow
from network_threads import QUIET, together
from reference import UnsplitClient, federated_lora, make_setting, write_rows
from splitft import Job, run

PATTERN = r"model\.layers\.\d+\.(self_attn\.[qv]_proj|mlp\.down_proj)"
MANY = r".*\.[0-2]\..*_proj|.*\.3\.mlp\..*_proj"  # so many full names that peft shortens them
LESS = r".*\.[03]\..*v_proj"
TARGETS: dict[str, tuple[Settings, Settings]] = {  # keys of the job, and of peft's LoraConfig
    "rslora": ({"use_rslora": True}, {"use_rslora": True}),
    "pattern": ({"lora_target_modules": PATTERN}, {"target_modules": PATTERN}),
    "full names": (
        {"lora_target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.3.mlp.up_proj", "v_proj"]},
        {"target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.3.mlp.up_proj", "v_proj"]},
    ),
    "blocks": ({"layers_to_transform": [1, 2]}, {"layers_to_transform": [1, 2]}),
    "one block": ({"layers_to_transform": 3}, {"layers_to_transform": [3]}),
    "dora": ({"use_dora": True}, {"use_dora": True}),
    "many names": ({"lora_target_modules": MANY}, {"target_modules": MANY}),
    "less a pattern": ({"exclude_modules": LESS}, {"exclude_modules": LESS}),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_setting(tmp_path_factory.mktemp("plain"), "llama")


# I1 and I2, from a start that peft has made.


@pytest.mark.parametrize("name", rest_slow(TARGETS, ["blocks"]))
def test_one_client_trains_the_unsplit_model(name: str, plain: Settings, tmp_path: Path) -> None:
    settings = one_client(started_by_peft(plain, tmp_path, *TARGETS[name]))
    adapter, losses = federated_lora(Job(**settings))
    start = load_file(tmp_path / "start" / "adapter_model.safetensors")
    assert start.keys() == adapter.keys()
    assert all(not torch.equal(adapter[key], start[key]) for key in start), "nothing was trained"
    for cut in (1, 2, 3):
        _, result = trained(settings, tmp_path / f"cut{cut}", cuts=cut)
        assert_same_losses(result, losses)
        assert_same_bits(final_adapter(result), adapter)


@pytest.mark.parametrize("name", rest_slow(TARGETS, 1))
def test_cuts_do_not_show_and_stock_peft_computes_the_same(
    name: str, plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = started_by_peft(plain, tmp_path, *TARGETS[name]) | THREE_CLIENTS
    adapter, losses = federated_lora(Job(**settings))
    for number, changes in enumerate(({}, MOVES, {"cuts": 1, "labels": "client"}, {"method": "fed_lora"})):
        job, result = trained(settings, tmp_path / f"run{number}", **changes)
        assert_same_losses(result, losses)
        assert_same_bits(final_adapter(result), adapter)
    check_export(job, result, tmp_path, monkeypatch)


@pytest.mark.parametrize("changes", [{}, {"cuts": [2, 2, 2]}], ids=["cuts differ", "at the cut"])
def test_a_lower_rank_at_the_cut_keeps_the_rslora_scaling(
    changes: Settings, plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = started_by_peft(plain, tmp_path, *TARGETS["rslora"]) | THREE_CLIENTS | {"lora_r_cut": 2}
    job, result = trained(settings, tmp_path / "run", **changes)
    layers = [m for m in tuned(job, result).modules() if isinstance(m, LoraLayer)]
    assert {round(layer.scaling["default"], 12) for layer in layers} == {4.0}  # 8 / sqrt(4)
    assert {layer.r["default"] for layer in layers} == ({2, 4} if changes else {4})
    check_export(job, result, tmp_path, monkeypatch)


# LoRA+


class LoraPlus(UnsplitClient):
    """Stock peft's optimizer with two learning rates."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        job = self.job
        ratio = job.loraplus_lr_ratio
        assert ratio
        return create_loraplus_optimizer(
            self.model, torch.optim.AdamW, lr=job.learning_rate, loraplus_lr_ratio=ratio,
            loraplus_weight_decay=job.weight_decay, fused=True,
        )  # fmt: skip


@pytest.mark.parametrize("ratio", rest_slow([3.7, 16.0], 1))
def test_loraplus_is_pefts_optimizer(
    ratio: float, plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = plain | {"loraplus_lr_ratio": ratio, "learning_rate": 1e-3}
    for number, common in enumerate((one_client(settings), settings | THREE_CLIENTS)):
        adapter, losses = federated_lora(Job(**common), LoraPlus)
        for cuts in ({"cuts": 1}, {"cuts": 3}) if not number else ({}, MOVES, {"method": "fed_lora"}):
            job, result = trained(common, fresh(tmp_path), **cuts)
            assert_same_losses(result, losses)
            assert_same_bits(final_adapter(result), adapter)
    check_export(job, result, tmp_path, monkeypatch)
    _, slow = trained(common, tmp_path / "slow", loraplus_lr_ratio=None)
    assert any(not torch.equal(final_adapter(slow)[name], tensor) for name, tensor in adapter.items())


# I3: parties of a network resolve targets and starts as one process does.

CASES: dict[str, Settings] = {
    "pattern": {"lora_target_modules": PATTERN, "layers_to_transform": [0, 2, 3]},
    "pissa": {"init_lora_weights": "pissa"},
    "last block": {"layers_to_transform": 3},
    "dora": {"use_dora": True, "lora_r_cut": 2, "aggregation": "exact"},
}


@pytest.mark.parametrize("name", rest_slow(CASES, ["pissa", "dora"]))
def test_a_network_run_is_the_local_one(name: str, plain: Settings, tmp_path: Path) -> None:
    names = ["north", "south"]
    files = {place: str(write_rows(tmp_path / f"{place}.txt", 24, n)) for n, place in enumerate(names)}
    settings = plain | CASES[name] | {
        "adapter_name_or_path": None, "data_files": files, "rounds": 2, "local_steps": 2, "cuts": [1, 2],
        "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2], "2": [3, 1]}}, "warmup_steps": 0,
        "partition": {"method": "files"}, "clients": 2, "labels": "server",
    }  # fmt: skip
    local = run(Job(**settings, output_dir=str(tmp_path / "local")), console=QUIET)
    folder = together(settings | {"network": {"clients": names}}, tmp_path)
    assert_same_bits(load_file(folder / "adapter" / "adapter_model.safetensors"), final_adapter(local))

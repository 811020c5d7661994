"""I1, I2, I3 and I4 for peft's variants: scaling, targets, starts, LoRA+; references are stock peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora import LoraLayer
from runs import (
    THREE_CLIENTS,
    Settings,
    Tensors,
    assert_same_bits,
    assert_same_losses,
    base_of,
    final_adapter,
    perplexity,
    trained,
    tuned,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from commands import splitft
from network_threads import QUIET, together
from reference import UnsplitClient, federated_lora, make_setting, write_rows
from splitft import Job, run
from splitft.lora.blocks import Adapter
from splitft.running.export import save_adapter
from splitft.running.prepare import assemble

MOVES = {"cut_policy": {"method": "schedule", "schedule": {"1": [1, 3, 2], "2": [3, 1, 1], "3": 2}}}
PATTERN = r"model\.layers\.\d+\.(self_attn\.[qv]_proj|mlp\.down_proj)"
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
    "less a pattern": (
        {"exclude_modules": r".*\.[03]\..*v_proj"},
        {"exclude_modules": r".*\.[03]\..*v_proj"},
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_setting(tmp_path_factory.mktemp("plain"), "llama")


def stock_config(settings: Settings, **changes: Any) -> LoraConfig:
    values = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": settings["lora_target_modules"],
        "task_type": "CAUSAL_LM",
    }
    return LoraConfig(**{**values, **changes})


def started_by_peft(plain: Settings, folder: Path, job_keys: Settings, peft_keys: Settings) -> Settings:
    """The settings with these keys, from a start that stock peft has made with its own."""
    torch.manual_seed(5)
    base = AutoModelForCausalLM.from_pretrained(plain["model_name_or_path"], dtype=torch.float32)
    config = stock_config(plain, init_lora_weights=False, **peft_keys)
    get_peft_model(base, config).save_pretrained(str(folder / "start"))
    return plain | job_keys | {"adapter_name_or_path": str(folder / "start")}


def fresh(folder: Path) -> Path:
    """A folder for another run."""
    return folder / f"run{len(list(folder.iterdir()))}"


def one_client(settings: Settings) -> Settings:
    return settings | {"clients": 1, "rounds": 4, "local_steps": 3}


# I1 and I2, from a start that peft has made.


@pytest.mark.parametrize("name", TARGETS)
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


@pytest.mark.parametrize("name", TARGETS)
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


def check_export(job: Job, result: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock peft gives the recorded perplexity, and a merged model its logits."""
    model = tuned(job, result)
    assert perplexity(model, job) == pytest.approx(result.history[-1].perplexity, rel=1e-5)
    assert result.history[-1].perplexity != pytest.approx(result.history[0].perplexity, rel=1e-4)
    assert splitft("export", result.output_dir, folder / "merged", "--merge", monkeypatch=monkeypatch) == 0
    ids = torch.arange(2, 62).reshape(3, 20)
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32).eval()
        assert (merged(ids).logits - model(ids).logits).abs().max() <= 1e-4
        assert (merged(ids).logits - base_of(job).eval()(ids).logits).abs().max() > 1e-3


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


# Starts without the base weights: SplitFT draws its own numbers, of peft's distribution.


def start_of_job(settings: Settings, folder: Path) -> tuple[Settings, Adapter]:
    """The settings with the job's own new adapter as a PEFT folder, and that adapter."""
    start = assemble(Job(**settings), QUIET)
    save_adapter(folder, start.adapter, start.split_model.slots, start.job, "", start.base)
    return settings | {"adapter_name_or_path": str(folder), "init_lora_weights": True}, start.adapter


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal"])
def test_starts_train_as_unsplit_whatever_the_cuts(
    init: bool | str, dora: bool, plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = plain | {"adapter_name_or_path": None, "init_lora_weights": init, "use_dora": dora}
    for number, common in enumerate((one_client(new), new | THREE_CLIENTS)):
        given, _ = start_of_job(common, tmp_path / f"start{number}")
        adapter, losses = federated_lora(Job(**given))
        for cuts in ({"cuts": 1}, {"cuts": 3}) if not number else ({}, MOVES):
            job, result = trained(common, fresh(tmp_path), **cuts)
            assert_same_losses(result, losses)
            assert_same_bits(final_adapter(result), adapter)
    check_export(job, result, tmp_path, monkeypatch)


def test_starts_have_pefts_distributions(plain: Settings, tmp_path: Path) -> None:
    new = plain | {"adapter_name_or_path": None, "lora_r": 16, "clients": 1}

    def values(init: bool | str) -> tuple[torch.Tensor, torch.Tensor, float]:
        _, adapter = start_of_job(new | {"init_lora_weights": init}, tmp_path / str(init))
        block = adapter[1]
        a, b = block["mlp.down_proj.lora_A.weight"], block["mlp.down_proj.lora_B.weight"]
        return a, b, float((b @ a).abs().max())

    for init in (True, False, "gaussian", "orthogonal"):
        a, b, product = values(init)
        torch.manual_seed(0)
        model = get_peft_model(base_of(Job(**new)), stock_config(new, r=16, init_lora_weights=init))
        layer = model.base_model.model.model.layers[1].mlp.down_proj
        for own, stock in ((a, layer.lora_A.default.weight), (b, layer.lora_B.default.weight)):
            assert own.shape == stock.shape
            assert float(own.std()) == pytest.approx(float(stock.std()), rel=0.15, abs=1e-9), init
            assert bool(own.any()) == bool(stock.any())
        assert (product < 1e-6) == (init is not False)


def test_dora_starts_with_pefts_magnitudes(plain: Settings, tmp_path: Path) -> None:
    new = plain | {"adapter_name_or_path": None, "use_dora": True, "clients": 1}
    _, adapter = start_of_job(new, tmp_path / "start")
    model = get_peft_model(base_of(Job(**new)), stock_config(new, use_dora=True))
    for block, layer in enumerate(model.base_model.model.model.layers):
        own = adapter[block]["self_attn.q_proj.lora_magnitude_vector"]
        assert torch.equal(own, layer.self_attn.q_proj.lora_magnitude_vector.default.weight)


@pytest.mark.parametrize("changes", [
    {"lora_r_cut": 2, "cuts": [2, 2, 2]}, {"lora_r_cut": 1, "aggregation": "exact"} | MOVES,
    {"lora_r_cut": 2}, {"robust_aggregation": "median"}, {"loraplus_lr_ratio": 4.0, "lora_dropout": 0.1},
    {"aggregation": "freeze_a"},
    {"server_adapter": "shared"}, {"method": "centralized"}, {"max_staleness": 1},
], ids=str)  # fmt: skip
def test_stock_peft_computes_what_a_dora_run_recorded(
    changes: Settings, plain: Settings, tmp_path: Path
) -> None:
    settings = plain | THREE_CLIENTS | {"adapter_name_or_path": None, "use_dora": True, "warmup_steps": 0}
    job, result = trained(settings, tmp_path / "run", **changes)
    assert result.history[-1].perplexity != pytest.approx(result.history[0].perplexity, rel=1e-4)
    assert perplexity(tuned(job, result), job) == pytest.approx(result.history[-1].perplexity, rel=1e-5)
    got = final_adapter(result)
    for block, tensors in assemble(job, QUIET).adapter.items():
        for name in (name for name in tensors if "magnitude" in name):
            assert not torch.equal(got[f"base_model.model.model.layers.{block}.{name}"], tensors[name])


# Starts with a part of the base weights: PiSSA and OLoRA as stock peft makes, trains and converts them.


class StartsInBase(UnsplitClient):
    """Stock peft, which takes the part out of the base weights itself."""

    folder: Path

    def with_adapter(self, base: Any) -> Any:
        config = stock_config(
            {"lora_target_modules": self.job.lora_target_modules},
            init_lora_weights=self.job.init_lora_weights,
            use_rslora=self.job.use_rslora,
        )
        model = get_peft_model(base, config)
        model.save_pretrained(str(self.folder / "initial"))
        return model

    def converted(self, adapter: Tensors) -> Tensors:
        """A trained adapter as peft saves it for the base model as it was."""
        self.load(adapter)
        initial, out = str(self.folder / "initial"), str(self.folder / "converted")
        self.model.save_pretrained(out, path_initial_model_for_weight_conversion=initial)
        return load_file(self.folder / "converted" / "adapter_model.safetensors")


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}], ids=str)
def test_a_start_in_the_base_weights_is_pefts(
    changes: Settings, init: str, plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = plain | {"adapter_name_or_path": None, "init_lora_weights": init} | changes

    for number, common in enumerate((one_client(new), new | THREE_CLIENTS)):
        made: list[StartsInBase] = []

        class Client(StartsInBase):
            folder = tmp_path / f"stock{number}"

            def __init__(self, *args: Any, made: list[StartsInBase] = made) -> None:
                super().__init__(*args)
                made.append(self)

        adapter, losses = federated_lora(Job(**common), Client)
        wanted = made[0].converted(adapter)
        for cuts in ({"cuts": 1}, {"cuts": 3}) if not number else ({}, MOVES, {"method": "fed_lora"}):
            job, result = trained(common, fresh(tmp_path), **cuts)
            assert_same_losses(result, losses)
            assert_same_bits(final_adapter(result), wanted)
    check_export(job, result, tmp_path, monkeypatch)
    # The run starts from the function of the base model, up to rounding.
    before = perplexity(base_of(job).eval(), job)
    assert result.history[0].perplexity == pytest.approx(before, rel=1e-5)


def test_a_fast_decomposition_is_the_same_at_every_cut(
    plain: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = plain | {"adapter_name_or_path": None, "init_lora_weights": "pissa_niter_4"} | THREE_CLIENTS
    _, first = trained(new, tmp_path / "first")
    job, result = trained(new, tmp_path / "second", **MOVES)
    assert_same_bits(final_adapter(result), final_adapter(first))
    check_export(job, result, tmp_path, monkeypatch)
    assert result.history[0].perplexity == pytest.approx(perplexity(base_of(job).eval(), job), rel=1e-5)


def test_training_goes_on_from_a_converted_start(plain: Settings, tmp_path: Path) -> None:
    new = plain | {"adapter_name_or_path": None, "init_lora_weights": "pissa"} | THREE_CLIENTS
    _, result = trained(new, tmp_path / "first")
    again = plain | {"adapter_name_or_path": str(result.adapter_path), "lora_r": 8, "lora_alpha": 16}
    _, further = trained(again | THREE_CLIENTS, tmp_path / "second")
    assert further.history[0].perplexity == pytest.approx(result.history[-1].perplexity, rel=1e-5)


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


@pytest.mark.parametrize("ratio", [16.0, 3.7])
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
    "fast pissa": {"init_lora_weights": "pissa_niter_2", "use_rslora": True, "loraplus_lr_ratio": 4.0},
    "last block": {"layers_to_transform": 3},
    "dora": {"use_dora": True, "lora_r_cut": 2, "aggregation": "exact"},
}


@pytest.mark.parametrize("name", CASES)
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

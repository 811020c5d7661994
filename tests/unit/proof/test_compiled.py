"""Compiled blocks compute what the model's own do, recomputed and with other adapters, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from reference import make_setting
from splitft import Job, JobError, run
from splitft.errors import ModelError
from splitft.lora.blocks import Adapter, initial_adapter
from splitft.model.slots import AdapterSlots, inject, lora_config, resolve_targets
from splitft.model.split_model import SplitModel, StepId
from splitft.model.window import install_window
from splitft.proof.compiled import compile_blocks
from tiny import tiny_model


def with_adapters(model_type: str, recompute: bool) -> tuple[Any, AdapterSlots]:
    model: Any = tiny_model(model_type, num_hidden_layers=2)
    targets, excluded = resolve_targets(model, None)
    conv = model_type == "gpt2"
    lora = lora_config(targets, excluded, r=4, alpha=8, dropout=0.0, fan_in_fan_out=conv)
    slots = inject(model, lora)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, slots


def some_adapter(slots: AdapterSlots, seed: int, rank: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return {
        block: {n: nn.Parameter(torch.randn(t.shape, generator=generator) / 8) for n, t in tensors.items()}
        for block, tensors in initial_adapter(slots.layout, rank, seed).items()
    }


def one_step(split: SplitModel, adapter: Adapter, rows: int, seq: int) -> list[Tensor]:
    """A forward and backward through two parts, and an evaluation, on rows of unequal length."""
    ids = torch.randint(4, 300, (rows, seq), generator=torch.Generator().manual_seed(rows))
    mask = torch.ones_like(ids)
    mask[-1, seq // 2 :] = 0
    inputs = {"attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    split.bind(adapter)
    place = StepId("client-0", 1, 0, 0, train=True)
    front = split.run(0, 1, place, input_ids=ids, attention_mask=mask)
    crossed = front.detach().requires_grad_()
    loss = split.loss(1, place, loss_tokens=0, hidden=crossed, **inputs)
    mine, own = list(adapter[0].values()), list(adapter[1].values())
    back, *gradients = torch.autograd.grad(loss, [crossed, *own])
    gradients += torch.autograd.grad(front, mine, back)
    calm = StepId("client-0", 1, 0, 0, train=False)
    nll = split.metrics(1, calm, hidden=crossed.detach(), **inputs).nll
    return [loss.detach(), torch.tensor(nll), back, *gradients]


slow = pytest.mark.slow


@pytest.mark.parametrize("model_type, recompute, backend", [
    ("llama", True, "eager"),
    *(pytest.param(kind, again, "aot_eager", marks=slow)
      for kind in ("gpt2", "llama") for again in (True, False)),
])  # fmt: skip
def test_compiled_blocks_obey_the_window_and_whatever_adapter_is_bound(
    model_type: str, recompute: bool, backend: str
) -> None:
    model, slots = with_adapters(model_type, recompute)
    split = SplitModel(model, slots)
    steps = [(some_adapter(slots, seed, rank), rows, seq) for seed, rank, rows, seq in
             [(1, 4, 3, 12), (2, 4, 2, 17), (3, 2, 4, 9)]]  # fmt: skip
    wanted = [one_step(split, *step) for step in steps]
    compile_blocks(model, slots, 4, backend=backend)
    assert all(block._compiled_call_impl is not None for block in install_window(model)._modules.values())
    for step, want in zip(steps, wanted, strict=True):
        for one, other in zip(want, one_step(split, *step), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * float(one.abs().max()))


def broken(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    return lambda *given: tuple(t * 1.01 for t in graph(*given))


def no_compiler(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    raise RuntimeError("no C++ compiler was found")


@pytest.mark.parametrize("backend, error, why", [
    (no_compiler, JobError, "does not work here.*no C\\+\\+ compiler.*torch_compile: false"),
    (broken, ModelError, "do not compute what the model's own do.*torch_compile: false"),
])  # fmt: skip
def test_what_is_not_compiled_well_is_refused(backend: Any, error: type[Exception], why: str) -> None:
    model, slots = with_adapters("llama", recompute=False)
    with pytest.raises(error, match=why):
        compile_blocks(model, slots, 4, backend=backend)


def test_kernels_for_cuda_are_refused_elsewhere(tmp_path: Path) -> None:
    settings = make_setting(tmp_path, "llama") | {
        "clients": 1,
        "rounds": 1,
        "output_dir": str(tmp_path / "r"),
    }
    with pytest.raises(JobError, match=r"use_liger_kernel needs a CUDA device.*cpu"):
        run(Job(**settings, use_liger_kernel=True), console=Console(quiet=True))


@slow
def test_a_compiled_run_ends_where_one_without_does(tmp_path: Path) -> None:
    settings = make_setting(tmp_path, "llama") | {"clients": 2, "rounds": 2, "local_steps": 2, "cuts": [1, 3]}
    losses = []
    for compiled in (False, True):
        job = Job(**settings, torch_compile=compiled, output_dir=str(tmp_path / f"run{compiled}"))
        result = run(job, console=Console(quiet=True))
        losses.append([client.loss for record in result.history[1:] for client in record.clients.values()])
        losses[-1].append(result.history[-1].perplexity)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

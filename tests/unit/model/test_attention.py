"""Attention in bfloat16 on a CPU: torch's forward bit by bit, gradients as exact as torch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from reference import make_setting
from splitft import Job, run
from splitft.model.attention import LONGEST, NAME, _works, attend, use_fast_backward
from splitft.proof.split import check_split
from splitft.running.prepare import assemble
from tiny import MODEL_TYPES, tiny_model
from versions import since

# Before 2.13 a torch may lack the kernels, and the model keeps transformers' own attention.
pytestmark = [] if _works() else since("torch", "2.13", "its kernels have other results")
SHAPES = [(2, 4, 4, 33, 16), (3, 6, 2, 128, 64), (1, 4, 1, 5, 8), (2, 2, 2, 1, 16)]  # batch, heads, shared, …


def rows(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Query, key and value as blocks make them: views of (batch, seq, heads, width)."""
    batch, heads, shared, seq, width = shape
    generator = torch.Generator().manual_seed(seq)
    sizes = ((batch, seq, count, width) for count in (heads, shared, shared))
    made = [torch.randn(size, generator=generator).to(torch.bfloat16).to(dtype) for size in sizes]
    return [t.transpose(1, 2).requires_grad_() for t in made]


def module_of(shape: tuple[int, ...]) -> nn.Module:
    module: Any = nn.Module()
    module.num_key_value_groups, module.is_causal = shape[1] // shape[2], True
    return module  # type: ignore[no-any-return]


def masks(shape: tuple[int, ...]) -> dict[str, Tensor | None]:
    """None; and padding of the second half, as yes and no, and as what is added to the scores."""
    seq = shape[3]
    allowed = torch.ones(shape[0], 1, seq, seq).tril().bool()
    allowed[..., 0] = True
    allowed[-1, :, :, seq // 2 + 1 :] = False
    added = torch.zeros(allowed.shape, dtype=torch.bfloat16).masked_fill_(
        ~allowed, torch.finfo(torch.bfloat16).min
    )
    return {"none": None, "bool": allowed, "added": added}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["none", "bool", "added"])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_forward_is_torchs_and_gradients_are_as_exact(
    shape: tuple[int, ...], kind: str, scaling: float | None
) -> None:
    mask, module = masks(shape)[kind], module_of(shape)
    slope = torch.randn(shape[0], shape[3], shape[1], shape[4], generator=torch.Generator().manual_seed(0))
    exact, stock, own = rows(shape, torch.float64), rows(shape), rows(shape)
    wide = mask if mask is None or mask.dtype is torch.bool else mask.double()
    answers = [
        sdpa_attention_forward(module, *exact, wide, scaling=scaling)[0],
        sdpa_attention_forward(module, *stock, mask, scaling=scaling)[0],
        attend(module, *own, mask, scaling=scaling)[0],
    ]
    assert torch.equal(answers[1], answers[2])
    true, theirs, ours = (
        torch.autograd.grad(answer, given, slope.to(answer.dtype))
        for answer, given in zip(answers, (exact, stock, own), strict=True)
    )
    for wanted, their, our in zip(true, theirs, ours, strict=True):
        assert our.dtype is torch.bfloat16
        limit = 1.1 * (their - wanted).norm() + 1e-4 * wanted.norm() + 1e-6
        assert (our - wanted).norm() <= limit


@pytest.mark.parametrize("change", ["dropout", "longer", "float32", "without gradient"])
def test_anything_else_is_transformers_own(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1, 2, 2, LONGEST + 1 if change == "longer" else 12, 8)
    given = rows(shape, torch.float32 if change == "float32" else torch.bfloat16)
    dropout = 0.5 if change == "dropout" else 0.0
    if change == "without gradient":
        given = [t.detach() for t in given]
    calls = []
    stock = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), stock(*a, **k))[1]
    )
    torch.manual_seed(3)
    answer, _ = attend(module_of(shape), *given, None, dropout=dropout)
    torch.manual_seed(3)
    wanted, _ = sdpa_attention_forward(module_of(shape), *given, None, dropout=dropout)
    assert torch.equal(answer, wanted) and len(calls) == 2


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_models_of_every_type_give_the_same_logits_and_can_be_split(model_type: str) -> None:
    plain, fast = (tiny_model(model_type).to(torch.bfloat16) for _ in range(2))
    use_fast_backward(fast)
    sdpa = plain.config._attn_implementation == "sdpa"
    assert fast.config._attn_implementation == (NAME if sdpa else plain.config._attn_implementation)
    ids = torch.randint(4, 60, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(20) < torch.tensor([[20], [7], [13]])).long()
    for inputs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        with torch.enable_grad():
            assert torch.equal(plain(**inputs).logits, fast(**inputs).logits)
    report = check_split(fast, [1, 2])
    assert report.ok and report.max_logit_difference == 0.0


def test_a_float32_model_and_another_device_keep_theirs() -> None:
    for model in (tiny_model("gpt2"), tiny_model("gpt2").to(torch.bfloat16).to("meta")):
        use_fast_backward(model)
        assert model.config._attn_implementation == "sdpa"


def test_a_job_uses_it_where_no_implementation_is_named(tmp_path: Path) -> None:
    setting = {**make_setting(tmp_path, "llama"), "bf16": True, "clients": 1, "cuts": 1, "rounds": 1}
    perplexity = {}
    for name, implementation in (("own", None), ("stock", "sdpa")):
        job = Job(**setting, attn_implementation=implementation, output_dir=str(tmp_path / name))
        used = assemble(job, Console(quiet=True)).model.config._attn_implementation
        assert used == (NAME if name == "own" else "sdpa")
        perplexity[name] = run(job, console=Console(quiet=True)).history[-1].perplexity
    assert perplexity["own"] == pytest.approx(perplexity["stock"], rel=2e-3)

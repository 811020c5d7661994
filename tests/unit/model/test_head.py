"""The loss in chunks is the model's own, and neither full logits nor tokens without a label are computed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from reference import make_setting
from splitft import Job, JobError, run
from splitft.job import load_job
from splitft.model.config import text_config
from splitft.model.layout import PaddedBatch
from splitft.model.slots import AdapterSlots
from splitft.model.split_model import SplitModel, StepId
from splitft.proof.every_type import default_config
from splitft.proof.head import try_head
from splitft.proof.split import check_split
from splitft.weights.load import load_model
from splitft.weights.shrink import shrink_config, tiny_random_model
from tiny import MODEL_TYPES, save_tiny_model, tiny_model

CHUNK = 32
PLACE = StepId("client-0", 1, 0, 0, train=True)


def small_model(model_type: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    if model_type in MODEL_TYPES:
        model: Any = tiny_model(model_type)
    else:
        config = shrink_config(default_config(model_type))
        config.vocab_size = 131  # no other size of the model
        model = tiny_random_model(config, 0, 0.2)
    return model.to(dtype).requires_grad_(False)


def parts(model: PreTrainedModel) -> tuple[SplitModel, SplitModel]:
    """The model with its own loss, and in chunks."""
    report = check_split(model, [1])
    assert report.ok and not report.head_reason, report
    slots = AdapterSlots(model)
    chunked = SplitModel(model, slots, head=report.head, loss_chunk_tokens=CHUNK)
    return SplitModel(model, slots), chunked


def batch(model: PreTrainedModel, rows: int = 6, seq: int = 30) -> dict[str, Tensor]:
    """Rows of unequal length on the way into the second block; a third of the tokens has no label."""
    generator = torch.Generator().manual_seed(1)
    config = text_config(model)
    ids = torch.randint(4, min(config.vocab_size, 60), (rows, seq), generator=generator)
    mask = (torch.arange(seq) < torch.randint(3, seq, (rows, 1), generator=generator)).long()
    mask[0] = 1
    labels = ids.masked_fill((mask == 0) | (torch.rand(ids.shape, generator=generator) < 0.3), -100)
    hidden = torch.randn(rows, seq, config.hidden_size, generator=generator).to(model.dtype)
    return {"hidden": hidden, "attention_mask": mask, "labels": labels}


def loss_and_gradient(
    model: SplitModel, inputs: dict[str, Tensor], loss_tokens: int
) -> tuple[Tensor, Tensor]:
    hidden = inputs["hidden"].clone().requires_grad_()
    loss = model.loss(1, PLACE, loss_tokens=loss_tokens, **{**inputs, "hidden": hidden})
    (gradient,) = torch.autograd.grad(loss, hidden)
    return loss.detach(), gradient


class Largest(TorchDispatchMode):
    """Notes the most values that any tensor of the vocabulary's width had."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        weight = func is torch.ops.aten.t.default  # the head's, transposed
        if isinstance(answer, Tensor) and not weight and answer.shape[-1:] == (self.vocabulary,):
            self.rows = max(self.rows, answer.numel() // self.vocabulary)
        return answer


def whole_rows(inputs: dict[str, Any]) -> dict[str, Any]:
    """The layout of a batch whose rows are all as long as it is wide."""
    rows, width = inputs["labels"].shape
    return {"layout": PaddedBatch(torch.ones(rows, width)), "lengths": [width] * rows}


@pytest.mark.parametrize("loss_tokens", [0, 500])
@pytest.mark.parametrize("model_type", [*MODEL_TYPES, "gemma2", "cohere", "granite", "mixtral"])
def test_chunks_give_the_models_own_loss_gradient_and_metrics(model_type: str, loss_tokens: int) -> None:
    model = small_model(model_type)
    own, chunked = parts(model)
    inputs = batch(model)
    loss, gradient = loss_and_gradient(own, inputs, loss_tokens)
    ours, our_gradient = loss_and_gradient(chunked, inputs, loss_tokens)
    torch.testing.assert_close(ours, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(our_gradient, gradient, rtol=0, atol=1e-6 * float(gradient.abs().max()))
    calm = StepId("client-0", 1, 0, 0, train=False)
    rows = whole_rows(inputs)
    wanted, metrics = own.metrics(1, calm, **rows, **inputs), chunked.metrics(1, calm, **rows, **inputs)
    assert metrics.row_nll is not None and metrics.row_tokens is not None
    assert float(metrics.row_nll.sum()) == pytest.approx(wanted.nll, rel=1e-5)
    assert int(metrics.row_tokens.sum()) == wanted.tokens
    assert metrics.nll == pytest.approx(wanted.nll, rel=1e-6)
    assert (metrics.correct, metrics.tokens) == (wanted.correct, wanted.tokens)
    assert (metrics.paper_correct, metrics.paper_tokens) == (wanted.paper_correct, wanted.paper_tokens)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2"])
def test_chunks_of_a_bfloat16_base_take_the_loss_in_float32(model_type: str) -> None:
    model = small_model(model_type, torch.bfloat16)
    own, chunked = parts(model)
    inputs = batch(model)
    loss, gradient = loss_and_gradient(own, inputs, 0)
    ours, our_gradient = loss_and_gradient(chunked, inputs, 0)
    assert ours.dtype == loss.dtype == torch.float32 and our_gradient.dtype is torch.bfloat16
    torch.testing.assert_close(ours, loss, rtol=1e-3, atol=0)
    torch.testing.assert_close(our_gradient, gradient, rtol=0, atol=0.03 * float(gradient.abs().max()))


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_logits_of_a_chunk_at_a_time_are_all_that_ever_exists(model_type: str) -> None:
    model = small_model(model_type)
    own, chunked = parts(model)
    inputs = batch(model)
    with Largest(model.config.vocab_size) as whole:
        loss_and_gradient(own, inputs, 0)
    assert whole.rows == inputs["labels"].numel()
    with Largest(model.config.vocab_size) as largest:
        loss_and_gradient(chunked, inputs, 0)
        chunked.metrics(1, StepId("client-0", 1, 0, 0, train=False), **whole_rows(inputs), **inputs)
    assert 0 < largest.rows <= CHUNK


def test_tokens_without_a_label_do_not_reach_the_head() -> None:
    model = small_model("llama")
    _, chunked = parts(model)
    inputs = batch(model)
    rows: list[int] = []
    handle = model.lm_head.register_forward_hook(lambda _module, args, _output: rows.append(len(args[0])))
    loss_and_gradient(chunked, inputs, 0)
    handle.remove()
    scored = int((inputs["labels"][:, 1:] != -100).sum())
    assert sum(rows) == scored and CHUNK < scored < inputs["labels"].numel()


def test_a_batch_without_any_label_has_no_loss_and_no_gradient() -> None:
    model = small_model("llama")
    own, chunked = parts(model)
    inputs = batch(model)
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    for split in (own, chunked):
        loss, gradient = loss_and_gradient(split, inputs, 0)
        assert loss.isnan() and not gradient.any()
        loss, gradient = loss_and_gradient(split, inputs, 9)
        assert loss == 0 and not gradient.any()


def test_a_loss_that_is_not_the_next_tokens_stays_the_models_own() -> None:
    model = tiny_random_model(shrink_config(default_config("bart")), 0, 0.2)  # its labels are not shifted
    form, reason = try_head(model)
    assert form == "whole" and "loss differs" in reason


def test_a_run_without_chunks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a head that the proof does not know."""
    keys = make_setting(tmp_path, "llama") | {"clients": 1, "rounds": 1, "local_steps": 3, "cuts": 1}
    monkeypatch.setattr("splitft.proof.split.try_head", lambda *_: ("whole", "in chunks the loss differs"))
    said = {}
    for chunk in (256, 0):
        console = Console(file=io.StringIO(), width=200)
        job = Job(**keys, loss_chunk_tokens=chunk, output_dir=str(tmp_path / f"run{chunk}"))
        result = run(job, console=console)
        said[chunk] = console.file.getvalue(), result.history[-1].clients["client-0"].loss  # type: ignore[attr-defined]
    assert "over the full logits" in said[256][0] and "over the full logits" not in said[0][0]
    assert said[256][1] == said[0][1]


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_party_that_holds_a_tail_proves_its_own_loss(model_type: str, tmp_path: Path) -> None:
    part = load_model(save_tiny_model(tmp_path / "model", model_type), blocks=[0, 3], head=True)
    assert try_head(part, whole=False) == ("plain", "")
    without = load_model(tmp_path / "model", blocks=[0, 2], head=True)
    form, reason = try_head(without, whole=False)  # the last block is not there
    assert form == "whole" and reason


def test_a_run_in_several_chunks_ends_where_the_whole_logits_do(tmp_path: Path) -> None:
    settings = make_setting(tmp_path, "llama") | {"clients": 1, "rounds": 2, "local_steps": 2, "cuts": 2}
    losses = []
    for chunk in (32, 0):
        job = Job(**settings, loss_chunk_tokens=chunk, output_dir=str(tmp_path / f"run{chunk}"))
        result = run(job, console=Console(quiet=True))
        losses.append([record.clients["client-0"].loss for record in result.history[1:]])
        losses[-1].append(result.history[-1].perplexity)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_chunks_that_would_be_slow_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model_name_or_path: m\ndataset_name: builtin:sotu\n", encoding="utf-8")
    with pytest.raises(JobError, match=r"loss_chunk_tokens.*128 or more"):
        load_job(str(path), ["loss_chunk_tokens=8"])

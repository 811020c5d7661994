"""A batch's samples, padded or in one row: the same rows in and out, and attention within each alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from splitft.devices.simulate import batch_shape
from splitft.model.attention import attend_samples_apart, sample_borders, samples_of
from splitft.model.layout import form_of
from splitft.model.split_model import loss_token_count
from splitft.model.window import call_model
from splitft.proof.packed import try_padding_free
from tiny import tiny_config, tiny_model

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)
CPU = torch.device("cpu")


@given(LENGTHS, st.booleans())
def test_rows_come_back_as_they_went_in(lengths: list[int], free: bool) -> None:
    form, rows = form_of(lengths, CPU, free), torch.rand(sum(lengths), 3)
    batch = form.batch(rows)
    assert batch.shape[:2] == ((1, sum(lengths)) if free else (len(lengths), max(lengths)))
    assert torch.equal(form.rows(batch), rows)


@given(LENGTHS)
def test_the_first_token_of_a_sample_is_no_label(lengths: list[int]) -> None:
    labels = torch.arange(1, sum(lengths) + 1)
    padded, flat = (form_of(lengths, CPU, free).labels(labels) for free in (False, True))
    assert loss_token_count(flat) == loss_token_count(padded) == sum(lengths) - len(lengths)
    assert set(flat[:, 1:][flat[:, 1:] != -100].tolist()) == set(
        padded[:, 1:][padded[:, 1:] != -100].tolist()
    )


@given(LENGTHS)
def test_a_batch_without_padding_costs_its_tokens_and_pairs(lengths: list[int]) -> None:
    rows, width = batch_shape(lengths, True)
    assert rows * width == pytest.approx(sum(lengths))
    assert rows * width**2 == pytest.approx(sum(length**2 for length in lengths))
    assert batch_shape(lengths, False) == (len(lengths), max(lengths))


@given(LENGTHS, st.booleans())
def test_the_borders_of_samples_are_read_off_the_mask(lengths: list[int], sliding: bool) -> None:
    config: Any = tiny_config("gemma3_text", sliding_window=3)
    config._attn_implementation = "sdpa"
    make = create_sliding_window_causal_mask if sliding else create_causal_mask
    positions = form_of(lengths, CPU, True).inputs["position_ids"]
    hidden = torch.zeros(1, sum(lengths), config.hidden_size)
    mask = make(config, hidden, None, None, position_ids=positions)
    borders = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    if len(lengths) > 1:
        assert sample_borders(mask) == borders
        mask = mask.clone()
        mask[..., 0, -1] = True  # no mask of samples any more
        assert sample_borders(mask) == []
    assert samples_of(None) == ()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3_text"])
def test_attention_by_sample_is_attention_under_the_mask(kind: str) -> None:
    lengths = (12, 1, 20, 7)
    form = form_of(lengths, CPU, True)
    ids = form.batch(torch.randint(4, 300, (sum(lengths),)))
    whole, apart = tiny_model(kind), tiny_model(kind)
    attend_samples_apart(apart)
    assert apart.config._attn_implementation == "sdpa_by_sample"
    found = [call_model(model, input_ids=ids, labels=ids, **form.inputs) for model in (whole, apart)]
    assert torch.allclose(found[0].logits, found[1].logits, atol=1e-5)
    gradients = [torch.autograd.grad(out.loss, list(m.parameters()), allow_unused=True)
                 for out, m in zip(found, (whole, apart), strict=True)]  # fmt: skip
    for one, other in zip(*gradients, strict=True):
        assert one is None or torch.allclose(one, other, atol=1e-5)
    assert try_padding_free(apart, [1, 2]) == ""


def test_a_model_that_computes_eagerly_keeps_its_attention() -> None:
    model = tiny_model("gpt_neo")
    attend_samples_apart(model)
    assert model.config._attn_implementation == "eager"

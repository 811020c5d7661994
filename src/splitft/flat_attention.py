"""Attention over samples that share a row: each sample by itself, and not all pairs under a mask.

A row of samples has a mask of blocks along its diagonal. What is between two samples is masked, but torch's
CPU kernel computes it: attention to n samples of one length would take n times as long as padded. (ours)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

_SUFFIX = "_by_sample"


def attend_samples_apart(model: Any) -> None:
    """Have a model on a CPU that computes with sdpa attend to each sample by itself; leave any other."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    inner = str(model.config.get_text_config(decoder=True)._attn_implementation)
    if model.device.type != "cpu" or not inner.endswith("sdpa"):
        return
    AttentionInterface.register(inner + _SUFFIX, partial(attend_by_sample, inner))
    AttentionMaskInterface.register(inner + _SUFFIX, sdpa_mask)
    model.set_attn_implementation(inner + _SUFFIX)


def attend_by_sample(
    inner: str,
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as transformers asks of an attention function; a row of several samples, sample by sample.

    inner: the name of the attention function that computes. query, key, value: (batch, heads, seq, width).
    Returns (batch, seq, heads, width).
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attend = ALL_ATTENTION_FUNCTIONS[inner]
    borders = sample_borders(attention_mask) if query.shape[2] == key.shape[2] else []
    if len(borders) < 3 or attention_mask is None or settings.get("position_bias") is not None:
        answer: tuple[Tensor, Tensor | None] = attend(module, query, key, value, attention_mask, **settings)
        return answer
    sizes = [end - start for start, end in pairwise(borders)]
    found = []
    samples = zip(
        borders, *(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=False
    )
    for start, *parts in samples:
        own = slice(start, start + parts[0].shape[2])
        mask = attention_mask[..., own, own]
        causal = torch.equal(mask, torch.ones_like(mask).tril())  # then kernels are faster without
        found.append(attend(module, *parts, None if causal else mask, **settings)[0])
    return torch.cat(found, dim=1), None


def sample_borders(mask: Tensor | None) -> Sequence[int]:
    """Return where the samples of a row begin, and its end; empty where a mask is not one of samples.

    mask: (1, heads or 1, seq, seq), true where a token sees another.
    """
    if mask is None or mask.dtype is not torch.bool or mask.ndim != 4 or mask.shape[:2] != (1, 1):
        return []
    seen = mask[0, 0]
    if seen.shape[0] != seen.shape[1]:
        return []
    first = (~seen.diagonal(-1)).nonzero().flatten() + 1  # none sees the last token of another sample
    borders = [0, *first.tolist(), len(seen)]
    inside = sum(int(seen[a:b, a:b].sum()) for a, b in pairwise(borders))
    return borders if inside == int(seen.sum()) else []

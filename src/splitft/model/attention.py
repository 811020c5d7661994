"""The attention of a bfloat16 model on a CPU: torch's own forward, and its backward in float32.

Up to some 300 tokens, torch's CPU kernel for the backward of bfloat16 rows takes longer than the one for
float32 rows, and the more so the shorter they are. The forward stays what it is, bit by bit; the gradients
are as exact as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.attention import SDPBackend

from splitft.model.config import text_config

NAME = "splitft_sdpa"
LONGEST = 320  # tokens of a row; for longer ones the bfloat16 kernel is as fast


def use_fast_backward(model: Any) -> None:
    """Give a model that computes with sdpa in bfloat16 on a CPU this attention, in place; leave any other."""
    config = text_config(model)
    plain = config._attn_implementation == "sdpa" and model.dtype is torch.bfloat16
    if not plain or model.device.type != "cpu" or not _works():
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **other: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend, with the interface of transformers' attention functions; its sdpa where that is as fast.

    query: (batch, heads, seq, width); key and value: as many heads, or fewer that several queries share.
    Returns (batch, seq, heads, width).
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    rest = [other.get(name) for name in ("position_bias", "cache", "softcap")]
    if dropout == 0 and rest == [None] * 3 and _gains(query, key, value):
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        causal = bool(causal) and attention_mask is None and query.shape[2] > 1
        shared = query.shape[1] // key.shape[1]
        rows = (query, repeat_kv(key, shared), repeat_kv(value, shared))
        mask = _additive(attention_mask, query.dtype)
        if torch._fused_sdp_choice(*rows, mask, 0.0, causal) == SDPBackend.FLASH_ATTENTION.value:
            out: Tensor = _Attention.apply(*rows, mask, causal, scaling)  # type: ignore[no-untyped-call]
            return out.transpose(1, 2).contiguous(), None
    answer: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, is_causal, **other
    )
    return answer


def _gains(query: Tensor, key: Tensor, value: Tensor) -> bool:
    rows = (query, key, value)
    return (
        torch.is_grad_enabled()
        and any(t.requires_grad for t in rows)
        and all(t.device.type == "cpu" and t.dtype is torch.bfloat16 for t in rows)
        and query.shape[2] == key.shape[2] <= LONGEST
    )


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a mask that is added to the scores: 0 for true and -inf for false, as in torch."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float | None,
    ) -> Tensor:
        out: Tensor
        out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.mask, ctx.causal, ctx.scale = mask, causal, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        *rows, log_sums = ctx.saved_tensors
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_output.float(), *(t.float() for t in rows), log_sums, 0.0, ctx.causal,
            attn_mask=None if ctx.mask is None else ctx.mask.float(), scale=ctx.scale,
        )  # fmt: skip
        return *(g.to(grad_output.dtype) for g in gradients), None, None, None


def _works() -> bool:
    """Whether this torch has the two kernels, with the results of `scaled_dot_product_attention`."""
    rows = torch.linspace(-1, 1, 3 * 4 * 8).view(3, 1, 1, 4, 8).bfloat16()
    two = torch.cat([rows, rows.flip(-1)], dim=2)  # heads that share one key and value
    stock, own = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    try:
        with torch.enable_grad():
            query, key, value = stock
            wanted = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            found = _Attention.apply(*own, None, True, None)  # type: ignore[no-untyped-call]
            (slope,) = torch.autograd.grad(wanted.sum(), stock)
            (own_slope,) = torch.autograd.grad(found.sum(), own)
            shared = functional.scaled_dot_product_attention(
                two[0], rows[1], rows[2], is_causal=True, enable_gqa=True
            )
            repeated = _Attention.apply(two[0], *(t.expand_as(two[0]) for t in rows[1:]), None, True, None)  # type: ignore[no-untyped-call]
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    same = torch.equal(wanted, found) and torch.equal(shared, repeated)  # torch 2.6 shares by another kernel
    return same and torch.allclose(slope, own_slope, rtol=0.05, atol=0.02)


_SUFFIX = "_by_sample"


def attend_samples_apart(model: Any) -> None:
    """Make a model on a CPU with sdpa attend to each sample of a row by itself; leave any other."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    inner = str(text_config(model)._attn_implementation)
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
    """Attend, with the interface of transformers' attention functions, to a packed row sample by sample.

    inner: the name of the attention function that computes.
    query, key, value: (batch, heads, seq, width). Returns (batch, seq, heads, width).
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attend = ALL_ATTENTION_FUNCTIONS[inner]
    samples = samples_of(attention_mask) if query.shape[2] == key.shape[2] else ()
    if len(samples) < 2 or settings.get("position_bias") is not None:
        answer: tuple[Tensor, Tensor | None] = attend(module, query, key, value, attention_mask, **settings)
        return answer
    sizes = [tokens for tokens, _ in samples]
    parts = zip(*(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True)
    found = [attend(module, *part, own, **settings)[0] for part, (_, own) in zip(parts, samples, strict=True)]
    return torch.cat(found, dim=1), None


# Tokens of each sample, and its own mask; None: causal, with which kernels are faster.
Samples = Sequence[tuple[int, Tensor | None]]


def samples_of(mask: Tensor | None) -> Samples:
    """Return the samples of a packed row; empty if the mask is not block-diagonal.

    They are kept with the mask, which all blocks of a forward share.
    """
    if mask is None:
        return ()
    known: Samples | None = vars(mask).get("splitft_samples")
    if known is None:
        found = []
        for start, end in pairwise(sample_borders(mask)):
            own = mask[..., start:end, start:end]
            found.append((end - start, None if torch.equal(own, torch.ones_like(own).tril()) else own))
        vars(mask)["splitft_samples"] = known = found
    return known


def sample_borders(mask: Tensor) -> Sequence[int]:
    """Return sample boundaries in a packed row, end included; empty if the mask is not block-diagonal.

    mask: (1, heads or 1, seq, seq), true where a token sees another.
    """
    if mask.dtype is not torch.bool or mask.ndim != 4 or mask.shape[:2] != (1, 1):
        return []
    seen = mask[0, 0]
    if seen.shape[0] != seen.shape[1]:
        return []
    first = (~seen.diagonal(-1)).nonzero().flatten() + 1  # none sees the last token of another sample
    borders = [0, *first.tolist(), len(seen)]
    inside = sum(int(seen[a:b, a:b].sum()) for a, b in pairwise(borders))
    return borders if inside == int(seen.sum()) else []

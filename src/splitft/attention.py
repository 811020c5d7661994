"""The attention of a bfloat16 model on a CPU: torch's own forward, and its backward in float32. (ours)

Up to some 300 tokens, torch's CPU kernel for the backward of bfloat16 rows takes longer than the one for
float32 rows, and the more so the shorter they are. The forward stays what it is, bit by bit; the gradients
are as exact as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.attention import SDPBackend

NAME = "splitft_sdpa"
LONGEST = 320  # tokens of a row; for longer ones the bfloat16 kernel is as fast


def use_fast_backward(model: Any) -> None:
    """Give a model that computes with sdpa in bfloat16 on a CPU this attention, in place; leave any other."""
    config = model.config.get_text_config(decoder=True)
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
    """Attend, as transformers asks of an attention function; where there is nothing to gain, as its sdpa.

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
    """Return a mask that is added to the scores: 0 and -inf where it says yes and no, as torch does."""
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
    """Whether this torch has the two kernels, and they compute what `scaled_dot_product_attention` does."""
    rows = torch.linspace(-1, 1, 3 * 4 * 8).view(3, 1, 1, 4, 8).bfloat16()
    stock, own = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    try:
        with torch.enable_grad():
            query, key, value = stock
            wanted = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            found = _Attention.apply(*own, None, True, None)  # type: ignore[no-untyped-call]
            (slope,) = torch.autograd.grad(wanted.sum(), stock)
            (own_slope,) = torch.autograd.grad(found.sum(), own)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    return torch.equal(wanted, found) and torch.allclose(slope, own_slope, rtol=0.05, atol=0.02)

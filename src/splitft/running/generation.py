"""Greedy continuations of prompts, by transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from splitft.model.window import eval_mode


def continue_prompts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 8,
) -> list[str]:
    """Return the text with which the model continues each prompt: greedily, up to an end-of-text token.

    prompts: token ids, at least one each. Rows of a batch are padded on the left. What the checkpoint's
    generation_config.json says of sampling and penalties does not count, but its end-of-text tokens do.
    """
    pad, stated = tokenizer.pad_token_id, getattr(model, "generation_config", None)
    ends = getattr(stated, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=sorted(stops) or None,
    )
    texts: list[str] = []
    with eval_mode(model), torch.no_grad():
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            width = max(map(len, batch))
            ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in batch])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
            made = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
            )
            texts += tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
    return texts

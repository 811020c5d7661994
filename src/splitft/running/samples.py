"""Held-out rows that the model continues before and after a run, for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from splitft.common.text import error_line
from splitft.data import ClientData
from splitft.data.rows import IGNORE, Rows, Tokens
from splitft.lora.blocks import Adapter
from splitft.model.split_model import SplitModel
from splitft.running.generation import continue_prompts

PROMPT, NEW = 16, 16  # tokens: enough to read, little to compute
_LONGEST = 64  # tokens of a prompt that a row itself sets apart


def sample_continuations(
    count: int,
    clients: Sequence[ClientData],
    tokenizer: PreTrainedTokenizerBase,
    model: SplitModel,
    before: Adapter,
    after: Adapter,
) -> tuple[list[dict[str, str]], str]:
    """Return samples of {client, prompt, written, before, after}, and why there are none, if so.

    count: of samples, one client after another. before, after: the adapters at the start and at the end;
    the latter stays bound.
    """
    chosen = list(_prompts(clients, count))
    if not chosen:
        return [], "no held-out row is long enough"
    prompts, texts = [prompt.tolist() for _, prompt, _ in chosen], []
    try:
        for adapter in (before, after):
            model.bind(adapter)
            made = continue_prompts(model.model, tokenizer, prompts, max_new_tokens=NEW, batch_size=count)
            texts.append(made)
    except Exception as error:  # a finished run must not fail for want of samples, whatever a model raises
        return [], error_line(error)
    shown = zip(chosen, *texts, strict=True)
    return [
        {
            "client": name,
            "prompt": _text(tokenizer, prompt),
            "written": _text(tokenizer, rest[:NEW]),
            "before": first,
            "after": last,
        }
        for (name, prompt, rest), first, last in shown
    ], ""


def _prompts(clients: Sequence[ClientData], count: int) -> Iterator[tuple[str, Tokens, Tokens]]:
    """The first rows that can be continued, one of each client in turn: name, prompt and rest."""
    own = [[(client.name, *parts) for parts in _parts(client.eval, count)] for client in clients]
    found = [sample for turn in zip_longest(*own) for sample in turn if sample is not None]
    yield from found[:count]


def _parts(rows: Rows, most: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Prompt and rest of the first rows of a client: split where the loss begins, else after some tokens."""
    found = 0
    for ids, labels in zip(rows.input_ids, rows.labels, strict=True):
        start = int(np.argmax(labels != IGNORE)) or min(PROMPT, len(ids) // 2)
        if start and found < most:
            found += 1
            yield ids[max(0, start - _LONGEST) : start], ids[start:]


def _text(tokenizer: Any, ids: Tokens) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True))

"""Records to tokens and labels, as TRL's SFTTrainer does it."""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from splitft.common.text import one_line
from splitft.data.records import Records
from splitft.data.rows import IGNORE, Indices, Rows, Tokens, has_loss
from splitft.errors import DataError

BATCH = 1000  # rows tokenised at once: enough for the tokenizer's threads, little memory
Neutralise = Callable[[Tokens, Tokens], tuple[Tokens, Tokens]]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Dropped:
    """Rows that were left out or cut."""

    short: int = 0  # fewer than 2 tokens
    without_loss: int = 0  # no token carries loss, e.g. the prompt alone fills max_length
    truncated: int = 0  # kept, but cut at max_length


def tokenize(
    records: Records,
    indices: Indices,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    completion_only_loss: bool | None = None,
    neutralise: Neutralise | None = None,
) -> tuple[Rows, Dropped]:
    """Tokenise some of the records.

    The end-of-sequence token follows plain text and completions that are plain text; a chat template sets
    its own ends. Rows are cut at `max_length` (None: not at all). A token that ends inside the completion
    belongs to the completion.

    indices: the records, in this order. completion_only_loss: loss on completions (or the assistant's
    messages) only; None: yes for prompt + completion rows, no for the others. neutralise: from a row's ids
    and labels, as encoded, to those without marks of what is redacted. Raises DataError where the
    tokenizer has no chat template, where its template fails on a row or does not mark the assistant's words,
    and where completion_only_loss is asked of plain text.
    """
    if completion_only_loss and records.kind == "text":
        raise DataError(
            "completion_only_loss: true needs prompt + completion, or messages; the rows are plain text"
        )
    only = records.kind == "prompt_completion" if completion_only_loss is None else completion_only_loss
    pairs: list[tuple[Tokens, Tokens]] = []
    for start in range(0, len(indices), BATCH):
        batch = [int(i) for i in indices[start : start + BATCH]]
        if records.kind == "messages" and only:
            pairs += _encode_assistant(records, batch, tokenizer)
        else:
            pairs += _encode(records, batch, tokenizer, only)
    if neutralise is not None:
        pairs = [neutralise(ids, labels) for ids, labels in pairs]

    rows = Rows(
        [ids[:max_length] for ids, _ in pairs],
        [labels[:max_length] for _, labels in pairs],
        np.asarray([len(ids) for ids, _ in pairs], dtype=np.int64),
        np.asarray(indices, dtype=np.int64),
    )
    short = int((rows.lengths < 2).sum())
    kept = rows.select([row for row, labels in enumerate(rows.labels) if has_loss(labels)])
    truncated = int((kept.full_lengths > kept.lengths).sum())
    return kept, Dropped(short, len(rows) - short - len(kept), truncated)


def _encode(
    records: Records, batch: Sequence[int], tokenizer: PreTrainedTokenizerBase, only: bool
) -> list[tuple[Tokens, Tokens]]:
    """Whole texts at once; labels start where the prompt ends."""
    texts, prompts, templated = [], [], False
    for i in batch:
        sample = records.samples[i]
        templated = not isinstance(sample[0], str)
        if templated:
            text = render(tokenizer, [m for part in sample for m in part], records.places[i], False)
            before = render(tokenizer, sample[0], records.places[i], True) if len(sample) == 2 else ""
            # A template may end the prompt's generation header otherwise than the finished conversation.
            prompts.append(os.path.commonprefix([text, before]))  # noqa: RUF071
        else:
            text = "".join(sample)
            prompts.append(sample[0] if len(sample) == 2 else "")
        texts.append(text)
    special = not templated  # a template writes its special tokens itself
    offsets = only and tokenizer.is_fast
    encoded = tokenizer(
        texts,
        add_special_tokens=special,
        return_attention_mask=False,
        return_offsets_mapping=offsets,
        truncation=False,
        verbose=False,
    )
    pairs = []
    for row, ids in enumerate(encoded["input_ids"]):
        prompt = 0
        if offsets:
            prompt = _prompt_tokens(encoded["offset_mapping"][row], len(prompts[row]))
        elif only:
            prompt = len(tokenizer(prompts[row], add_special_tokens=special, verbose=False)["input_ids"])
        eos = tokenizer.eos_token_id
        if not templated and eos is not None and (not ids or ids[-1] != eos):
            ids = [*ids, eos]
        tokens: Tokens = np.asarray(ids, dtype=np.int32)
        labels = tokens.copy()
        labels[:prompt] = IGNORE
        pairs.append((tokens, labels))
    return pairs


def _prompt_tokens(offsets: Sequence[tuple[int, int]], prompt_end: int) -> int:
    """Return the number of tokens before the first one that ends inside the completion."""
    return next((i for i, (_, end) in enumerate(offsets) if end > prompt_end), len(offsets))


def _encode_assistant(
    records: Records, batch: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[Tokens, Tokens]]:
    """Loss on what the template marks as the assistant's words."""
    if not _GENERATION.search(_template(tokenizer)):
        raise DataError(
            "completion_only_loss: true on messages needs a chat template that marks the assistant's words "
            "with {% generation %}, and this tokenizer's does not: use prompt + completion, or leave it false"
        )
    pairs = []
    for i in batch:
        encoded = _templated(
            tokenizer,
            records.samples[i][0],
            records.places[i],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )
        tokens: Tokens = np.asarray(encoded["input_ids"], dtype=np.int32)
        mask = np.asarray(encoded["assistant_masks"], dtype=bool)
        pairs.append((tokens, np.where(mask, tokens, IGNORE).astype(np.int32)))
    return pairs


def render(tokenizer: PreTrainedTokenizerBase, messages: list[Any], place: str, generation: bool) -> str:
    """Return messages as the tokenizer's chat template writes them.

    place: file and line, for errors. generation: whether the header of an answer follows. Raises DataError.
    """
    _template(tokenizer)
    return str(_templated(tokenizer, messages, place, tokenize=False, add_generation_prompt=generation))


def _templated(tokenizer: PreTrainedTokenizerBase, messages: list[Any], place: str, **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except Exception as error:  # a template may raise anything
        problem = f"the tokenizer's chat template refuses the messages: {one_line(error)}"
        raise DataError(f"{place}: {problem}") from error


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise DataError(
            "the rows are messages, but the model's tokenizer has no chat template: use a chat model, "
            "or give text, or prompt + completion as plain text"
        ) from error

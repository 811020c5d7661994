"""Canaries: sentences of random words among training rows, to measure what an adapter remembers of them.

Source: Carlini et al., "The Secret Sharer" (USENIX Security 2019), §4: random secrets in a fixed form are
planted in several copies; the rank of each among secrets that were not tells how far it is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from splitft.common.seeds import numpy_generator
from splitft.data.canary_words import CANARY_WORDS
from splitft.data.rows import Rows, Tokens, join
from splitft.errors import DataError
from splitft.job.data import DataSettings

LEVELS = (0, 1, 4, 16)  # copies of a canary; 0: a control, which is not planted
WORDS = 6
_RECORD = -1  # number of the record of a canary's rows, which are none of the data


@dataclass(frozen=True)
class Canary:
    """A sentence and the number of its copies among the training rows of one client."""

    text: str
    copies: int


def canaries_of(settings: DataSettings, client: str) -> list[Canary]:
    """Return the canaries of a client: `canaries` of each level, controls among them; by seed and name."""
    sentences = _sentences(settings, client, "canaries", settings.canaries * len(LEVELS))
    copies = [level for level in LEVELS for _ in range(settings.canaries)]
    return [Canary(text, count) for text, count in zip(sentences, copies, strict=True)]


def references_of(settings: DataSettings, client: str, count: int) -> list[str]:
    """Return so many sentences of the same form that no client trains on."""
    return _sentences(settings, client, "references", count)


def with_canaries(
    rows: Rows, settings: DataSettings, client: str, tokenizer: PreTrainedTokenizerBase
) -> Rows:
    """Return a client's training rows with its canaries behind them, each in its copies.

    Raises DataError where a canary is longer than max_length.
    """
    if not settings.canaries:
        return rows
    planted = [canary.text for canary in canaries_of(settings, client) for _ in range(canary.copies)]
    ids = sentence_ids(planted, tokenizer)
    longest = max(map(len, ids))
    if longest > settings.max_length:
        raise DataError(f"canaries take {longest} tokens, and max_length is {settings.max_length}: raise it")
    lengths = np.asarray([len(own) for own in ids], dtype=np.int64)
    records = np.full(len(ids), _RECORD, dtype=np.int64)
    return join([rows, Rows(ids, [own.copy() for own in ids], lengths, records)])


def sentence_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    """Return the ids of sentences as plain training rows have them, an end of sequence behind each."""
    eos = tokenizer.eos_token_id
    end = [] if eos is None else [eos]
    return [
        np.asarray([*ids, *(end if ids[-1:] != end else [])], dtype=np.int32)
        for ids in tokenizer(list(texts), verbose=False)["input_ids"]
    ]


def _sentences(settings: DataSettings, client: str, what: str, count: int) -> list[str]:
    rng = numpy_generator(settings.seed, what, client)
    numbers = rng.integers(100, 1000, count)
    words = rng.choice(np.asarray(CANARY_WORDS), (count, WORDS))
    return [
        f"The secret code of agent {number} is {' '.join(own)}."
        for number, own in zip(numbers.tolist(), words.tolist(), strict=True)
    ]

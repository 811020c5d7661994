"""A client's redactions, applied to its records and to its rows, before any of them leaves `prepare`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from splitft.data.records import Records, Sample
from splitft.data.redaction.registry import spans_by
from splitft.data.redaction.spans import (
    MARK,
    Finder,
    checked,
    cut_out,
    marked_spans,
    merged,
    pattern_finder,
    term_finder,
    within,
)
from splitft.data.rows import IGNORE, Indices, Rows, Tokens, has_loss
from splitft.errors import DataError, ModelError
from splitft.job.redaction import RedactConfig

LEFT_ALONE = ("role", "type")  # keys of a message whose texts a chat template goes by


@dataclass(frozen=True)
class Removed:
    """What was redacted of each record: places, and the tokens of their texts, (records,) each."""

    places: Indices
    tokens: Indices


@dataclass(frozen=True)
class Redaction:
    """The redactions of one client.

    Attributes:
        tokenizer: A copy, in which MARK is one token; or the tokenizer itself, where no texts are redacted.
        mark: The id of MARK; -1 where no texts are redacted.
        neutral: The id that stands in the place of what is redacted.
    """

    config: RedactConfig
    tokenizer: PreTrainedTokenizerBase
    mark: int
    neutral: int

    @cached_property
    def _finders(self) -> list[Finder]:
        config, finders = self.config, []
        if config.patterns:
            finders.append(pattern_finder(config.patterns))
        if config.terms_file:
            finders.append(term_finder(_read_terms(config.terms_file)))
        if name := config.function:
            finders.append(lambda text: spans_by(name, text))
        return finders

    def records(self, records: Records) -> tuple[Records, Removed]:
        """Return records whose samples hold MARK in the place of what is redacted.

        Raises DataError where a row's own spans are none, with its place; JobError where a redactor fails.
        """
        samples, counts = [], np.zeros((2, len(records)), dtype=np.int64)
        pieces: list[list[str]] = []
        for row, sample in enumerate(records.samples):
            redacted, removed = self._sample(records, row, sample)
            samples.append(redacted)
            pieces.append(removed)
        flat = [piece for own in pieces for piece in own]
        sizes = [len(ids) for ids in self._ids(flat)]
        place = 0
        for row, own in enumerate(pieces):
            counts[:, row] = len(own), sum(sizes[place : place + len(own)])
            place += len(own)
        return replace(records, samples=samples), Removed(counts[0], counts[1])

    def neutralise(self, ids: Tokens, labels: Tokens) -> tuple[Tokens, Tokens]:
        """Return a row's ids and labels with the neutral token in the place of every mark, (tokens,) each."""
        return collapse(ids, labels, ids == self.mark, self.neutral)

    def without_rare(self, sides: Sequence[Rows]) -> tuple[list[Rows], int]:
        """Return a client's rows without tokens that are rare in them, and how many these were.

        sides: the rows trained on and those held out, which are counted together; a row that was drawn more
            than once counts once. Rows that have no loss any more are left out.
        """
        if not self.config.rare_tokens:
            return list(sides), 0
        known = [ids for rows in sides for ids in _distinct(rows)]
        size = max((int(ids.max()) for ids in known if len(ids)), default=-1) + 1
        counts = np.bincount(np.concatenate(known) if known else np.zeros(0, np.int64), minlength=size)
        rare = (counts > 0) & (counts <= self.config.rare_tokens)
        kept = [*self.tokenizer.all_special_ids, self.neutral]
        rare[[token for token in kept if token < len(rare)]] = False
        found = [_without(rows, rare, self.neutral) for rows in sides]
        return [rows for rows, _ in found], sum(count for _, count in found)

    def _sample(self, records: Records, row: int, sample: Sample) -> tuple[Sample, list[str]]:
        """Return one sample and the texts that were removed from it, in their order."""
        marks = records.marked[row] if records.marked else None
        removed: list[str] = []
        if isinstance(sample[0], str):
            text, parts, place = "".join(sample), [], 0
            spans = merged(text, [*self._found(text), *self._marks(records, row, marks, len(text))])
            for part in sample:
                redacted, own = cut_out(part, within(spans, place, place + len(part)))
                parts.append(redacted)
                removed += own
                place += len(part)
            return tuple(parts), removed
        if marks is not None:
            raise DataError(
                f"{records.places[row]}: redact.spans_column counts characters of a text, and the rows are "
                "messages: redact by patterns, terms or a function"
            )
        return tuple(self._inside(part, removed) for part in sample), removed

    def _inside(self, value: Any, removed: list[str]) -> Any:
        """Return a value of a message with all of its texts redacted."""
        if isinstance(value, dict):
            return {
                key: part if key in LEFT_ALONE else self._inside(part, removed) for key, part in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._inside(part, removed) for part in value]
        if not isinstance(value, str):
            return value
        redacted, own = cut_out(value, merged(value, self._found(value)))
        removed += own
        return redacted

    def _found(self, text: str) -> list[tuple[int, int]]:
        return [span for finder in self._finders for span in finder(text)]

    def _marks(self, records: Records, row: int, value: Any, length: int) -> list[tuple[int, int]]:
        try:
            return checked(marked_spans(value), length)
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{records.places[row]}: column {self.config.spans_column!r} (redact.spans_column) must hold "
                f"[[start, end], ...] within the text: {error}"
            ) from None

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids


def make_redaction(config: RedactConfig, tokenizer: PreTrainedTokenizerBase) -> Redaction | None:
    """Return the redactions of a client; None where nothing is to be redacted.

    Raises ModelError where the tokenizer cannot keep a mark apart.
    """
    if not config.active:
        return None
    neutral, mark = neutral_token(tokenizer), -1
    if config.of_texts:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens([AddedToken(MARK, normalized=False, special=True)], special_tokens=True)
        mark = int(tokenizer.convert_tokens_to_ids(MARK))
        tried = tokenizer(f"a{MARK} b{MARK}", add_special_tokens=False)["input_ids"]
        if list(tried).count(mark) != 2:
            raise ModelError("the model's tokenizer cannot mark redacted spans: redact rare_tokens alone")
    return Redaction(config, tokenizer, mark, neutral)


def neutral_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that stands for what is redacted: the tokenizer's mask token, else an underscore."""
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    ids = tokenizer("_", add_special_tokens=False)["input_ids"]
    if not len(ids):
        raise ModelError("the model's tokenizer has no token for what is redacted: no mask, no underscore")
    return int(ids[-1])


def collapse(ids: Tokens, labels: Tokens, hidden: NDArray[np.bool_], neutral: int) -> tuple[Tokens, Tokens]:
    """Return a row with one neutral token, without loss, in the place of each run of hidden ones."""
    if not hidden.any():
        return ids, labels
    ids, labels = np.where(hidden, neutral, ids), np.where(hidden, IGNORE, labels)
    first = hidden & ~np.concatenate([[False], hidden[:-1]])
    kept = ~hidden | first
    return ids[kept].astype(np.int32), labels[kept].astype(np.int32)


def _distinct(rows: Rows) -> list[Tokens]:
    _, first = np.unique(rows.records, return_index=True)
    return [rows.input_ids[row] for row in first]


def _without(rows: Rows, rare: NDArray[np.bool_], neutral: int) -> tuple[Rows, int]:
    """Return rows without the tokens that `rare` names, and how many these are in rows counted once."""
    hidden = [rare[ids] for ids in rows.input_ids]
    pairs = [
        collapse(ids, labels, own, neutral)
        for ids, labels, own in zip(rows.input_ids, rows.labels, hidden, strict=True)
    ]
    _, first = np.unique(rows.records, return_index=True)
    count = sum(int(hidden[row].sum()) for row in first)
    shorter = rows.lengths - np.asarray([len(ids) for ids, _ in pairs], dtype=np.int64)
    made = Rows(
        [ids for ids, _ in pairs],
        [labels for _, labels in pairs],
        rows.full_lengths - shorter,
        rows.records,
    )
    return made.select([row for row, labels in enumerate(made.labels) if has_loss(labels)]), count


def _read_terms(path: str) -> list[str]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"redact.terms_file {path} cannot be read: {problem}") from None
    return [line.strip() for line in lines if line.strip()]

"""Canaries: planted in the training rows alone, in their numbers of copies, the same each time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from reference import write_rows
from splitft import Job
from splitft.data import prepare
from splitft.data.canaries import LEVELS, WORDS, canaries_of, references_of, sentence_ids
from splitft.data.canary_words import CANARY_WORDS
from splitft.errors import DataError
from tiny import tiny_tokenizer


def job(folder: Path, **changes: object) -> Job:
    data = write_rows(folder / "rows.txt")
    values = {
        "model_name_or_path": "m",
        "data_files": str(data),
        "clients": 2,
        "canaries": 3,
        "max_length": 96,
    }
    return Job(**values | changes)  # type: ignore[arg-type]


def test_each_client_has_its_own_in_1_4_and_16_copies(tmp_path: Path) -> None:
    tokenizer, with_them = tiny_tokenizer(), job(tmp_path)
    plain = prepare(job(tmp_path, canaries=0), tokenizer).clients
    seen = []
    for client, before in zip(prepare(with_them, tokenizer).clients, plain, strict=True):
        own = [tuple(ids.tolist()) for ids in client.train.input_ids]
        assert own[: len(before.train)] == [tuple(ids.tolist()) for ids in before.train.input_ids]
        planted = Counter(own[len(before.train) :])
        canaries = canaries_of(with_them, client.name)
        assert [canary.copies for canary in canaries] == [level for level in LEVELS for _ in range(3)]
        ids = [tuple(own.tolist()) for own in sentence_ids([one.text for one in canaries], tokenizer)]
        assert {own: planted[own] for own in ids} == dict(zip(ids, [c.copies for c in canaries], strict=True))
        assert sum(planted.values()) == 3 * (1 + 4 + 16)
        assert [ids.tolist() for ids in client.eval.input_ids] == [
            ids.tolist() for ids in before.eval.input_ids
        ]
        assert not {tuple(ids.tolist()) for ids in client.eval.input_ids} & set(ids)
        assert (client.train.records[len(before.train) :] == -1).all()
        seen += [canary.text for canary in canaries]
    assert len(set(seen)) == len(seen)


def test_references_have_the_same_form_and_are_not_planted(tmp_path: Path) -> None:
    own = job(tmp_path)
    texts = references_of(own, "client-0", 300)
    assert len(set(texts)) == 300 and texts == references_of(own, "client-0", 300)
    assert not set(texts) & {canary.text for canary in canaries_of(own, "client-0")}
    form = {
        (len(text.split()), text.split()[:5] == ["The", "secret", "code", "of", "agent"]) for text in texts
    }
    assert form == {(7 + WORDS, True)}


def test_words_are_different_ones() -> None:
    assert len(set(CANARY_WORDS)) == len(CANARY_WORDS) >= 256


def test_rows_that_are_too_short_for_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"canaries take \d+ tokens, and max_length is 24"):
        prepare(job(tmp_path, max_length=24), tiny_tokenizer())

"""Evaluation sets: files of one's own, a split of the hub's; leakage; long rows in chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from splitft.data import Prepared, prepare
from splitft.data.rows import Rows, chunk
from splitft.errors import DataError
from splitft.job import Job
from tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


def write(path: Path, texts: list[str], **columns: list[str]) -> str:
    rows = [
        {"text": text} | {name: values[i] for name, values in columns.items()} for i, text in enumerate(texts)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def job(**keys: Any) -> Job:
    return Job(model_name_or_path="unused", **{"max_length": 64, "clients": 3, **keys})


def side(prepared: Prepared, name: str, tokenizer: PreTrainedTokenizerFast) -> list[list[str]]:
    return [
        [tokenizer.decode(ids, skip_special_tokens=True) for ids in getattr(client, name).input_ids]
        for client in prepared.clients
    ]


def flat(texts: list[list[str]]) -> list[str]:
    return sorted(text for own in texts for text in own)


TRAIN = [f"train {i} " + "law " * (i % 13) for i in range(60)]
TEST = [f"test {i} " + "law " * (i % 13) for i in range(20)]


@pytest.mark.parametrize("method", ["iid", "length_dirichlet"])
def test_a_common_set_is_evaluated_once_and_nothing_is_held_out(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, method: str
) -> None:
    files = {
        "data_files": write(tmp_path / "a.jsonl", TRAIN),
        "eval_files": write(tmp_path / "e.jsonl", TEST),
    }
    prepared = prepare(job(**files, partition={"method": method}), tokenizer)
    trained, evaluated = side(prepared, "train", tokenizer), side(prepared, "eval", tokenizer)
    assert flat(trained) == sorted(TRAIN)
    assert flat(evaluated) == sorted(TEST)
    assert all(evaluated)
    report = prepared.report
    assert (report.eval_set, report.eval_rows, report.leaked_eval_rows) == ("eval_files", 20, 0)
    few = prepare(job(**files, partition={"method": method}, max_eval_samples=5), tokenizer)
    assert few.report.eval_rows == 5
    assert few.report.unused == 15


def test_a_set_with_the_partition_column_goes_to_its_sites(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    sites = [("north", "south")[i % 2] for i in range(60)]
    files = {
        "data_files": write(tmp_path / "a.jsonl", TRAIN, site=sites),
        "eval_files": write(tmp_path / "e.jsonl", TEST, site=["south"] * 12 + ["north"] * 8),
    }
    common: dict[str, Any] = {"partition": {"method": "by_column", "column": "site"}}
    prepared = prepare(job(**files, **common), tokenizer)
    assert side(prepared, "eval", tokenizer) == [TEST[12:], TEST[:12]]
    files["eval_files"] = write(
        tmp_path / "f.jsonl", TEST
    )  # without the column: in the proportions of the rows
    prepared = prepare(job(**files, **common), tokenizer)
    assert [len(client.eval) for client in prepared.clients] == [10, 10]


def test_a_file_for_each_client(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = {
        name: write(tmp_path / f"{name}.jsonl", [f"{name} {t}" for t in TRAIN]) for name in ("a", "b", "c")
    }
    own = {name: write(tmp_path / f"e{name}.jsonl", [f"{name} {t}" for t in TEST]) for name in ("c", "a")}
    prepared = prepare(job(data_files=data, eval_files=own), tokenizer)
    texts = side(prepared, "eval", tokenizer)
    assert texts == [[f"a {t}" for t in TEST], [], [f"c {t}" for t in TEST]]
    assert "eval_files has no rows for b: not evaluated there" in prepared.notices
    with pytest.raises(DataError, match="eval_files: d: no client has this name; there are a, b, c"):
        prepare(job(data_files=data, eval_files=own | {"d": own["a"]}), tokenizer)
    common = prepare(job(data_files=data, eval_files=own["a"]), tokenizer)
    assert flat(side(common, "eval", tokenizer)) == sorted(f"a {t}" for t in TEST)


def test_a_split_of_the_data_set(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", TRAIN)
    write(tmp_path / "set" / "test.jsonl", TEST)
    prepared = prepare(job(dataset_name=str(tmp_path / "set"), dataset_test_split="test"), tokenizer)
    assert flat(side(prepared, "train", tokenizer)) == sorted(TRAIN)
    assert flat(side(prepared, "eval", tokenizer)) == sorted(TEST)
    assert prepared.report.eval_set == "split test"
    with pytest.raises(DataError, match="split 'dev' cannot be loaded"):
        prepare(job(dataset_name=str(tmp_path / "set"), dataset_test_split="dev"), tokenizer)


def test_one_training_row_is_enough_with_an_evaluation_set(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    files = {"data_files": write(tmp_path / "a.jsonl", TRAIN[:1]), "clients": 1}
    assert (
        len(prepare(job(**files, eval_files=write(tmp_path / "e.jsonl", TEST)), tokenizer).clients[0].eval)
        == 20
    )
    with pytest.raises(
        DataError, match="the only row of the data, and some must be held out: add data, or name rows"
    ):
        prepare(job(**files), tokenizer)


# Leakage


def test_identical_rows_on_both_sides_are_counted_for_the_run_and_each_client(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = {name: write(tmp_path / f"{name}.jsonl", [f"{name} {t}" for t in TRAIN]) for name in ("a", "b")}
    own = {
        "a": write(tmp_path / "ea.jsonl", [f"a\n  {TRAIN[3]}\t", f"b {TRAIN[4]}", "new", f"a {TRAIN[3]}"]),
        "b": write(tmp_path / "eb.jsonl", ["b newer", "A " + TRAIN[3]]),
    }
    prepared = prepare(job(data_files=data, eval_files=own, clients=2), tokenizer)
    assert [client.leaked_eval_rows for client in prepared.report.clients] == [3, 0]
    assert prepared.report.summary()["leaked_eval_rows"] == 3
    assert any("3 of 6 evaluation rows are also training rows, word for word" in n for n in prepared.notices)
    # Rows that are not trained on do not leak
    few = prepare(job(data_files=data, eval_files=own, clients=2, max_train_samples=2), tokenizer)
    assert few.report.leaked_eval_rows < 3


def test_copies_of_a_row_leak_out_of_the_held_out_rows(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    copies = prepare(job(data_files=write(tmp_path / "a.jsonl", TRAIN[:10] * 6)), tokenizer)
    assert copies.report.leaked_eval_rows == copies.report.eval_rows == 6
    assert any("remove the copies, or name the column" in notice for notice in copies.notices)
    names = [str(i % 10) for i in range(60)]
    kept = write(tmp_path / "b.jsonl", TRAIN[:10] * 6, copy=names)
    together = prepare(job(data_files=kept, document_column="copy"), tokenizer)
    assert together.report.leaked_eval_rows == 0
    assert not together.notices


# Long rows


def test_chunks_keep_every_token_of_long_rows_with_one_client_and_on_one_side(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [f"row{chr(97 + i)} " + f"law{i} " * (3 * i) for i in range(24)]
    file = write(tmp_path / "a.jsonl", texts)
    common: dict[str, Any] = {"data_files": file, "partition": {"method": "length_dirichlet"}}
    cut = prepare(job(**common, max_length=16), tokenizer)
    whole = prepare(job(**common, max_length=10_000), tokenizer)
    chunked = prepare(job(**common, max_length=16, truncation_mode="chunk"), tokenizer)
    for client, own in zip(chunked.clients, whole.clients, strict=True):
        for rows, full in ((client.train, own.train), (client.eval, own.eval)):
            assert max(rows.lengths, default=0) <= 16
            for record, ids in zip(full.records, full.input_ids, strict=True):
                pieces = [piece for r, piece in zip(rows.records, rows.input_ids, strict=True) if r == record]
                joined = np.concatenate(pieces)
                assert np.array_equal(joined, ids[: len(joined)])
                assert len(ids) - len(joined) in (0, 1)  # a last chunk of one token has no loss
            assert set(rows.records) == set(full.records)
    sides = [set(rows.records) for client in chunked.clients for rows in (client.train, client.eval)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 24
    assert chunked.report.truncated == 0
    # The share that is lost without them
    lost = 1 - sum(c.train.tokens + c.eval.tokens for c in cut.clients) / sum(
        c.train.tokens + c.eval.tokens for c in whole.clients
    )
    assert cut.report.truncated_share == pytest.approx(lost)
    assert any("truncation_mode=chunk keeps them" in notice for notice in cut.notices)
    assert not any("truncation_mode" in notice for notice in chunked.notices)


def test_chunks_without_loss_are_dropped() -> None:
    ids = np.arange(10, dtype=np.int32)
    labels = np.where(ids < 5, -100, ids).astype(np.int32)
    rows = Rows([ids], [labels], np.asarray([10]), np.asarray([7]))
    got = chunk(rows, 4)
    assert [row.tolist() for row in got.input_ids] == [[4, 5, 6, 7], [8, 9]]
    assert (got.records.tolist(), got.full_lengths.tolist()) == ([7, 7], [4, 2])
    assert len(chunk(rows.select([]), 4)) == 0
    with pytest.raises(ValueError, match="at least 2"):
        chunk(rows, 1)

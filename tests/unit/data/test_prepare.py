"""From a job to every client's rows, and what is shown of them."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from splitft.common.text import short_count
from splitft.data import Prepared, partition_picture, partition_table, prepare
from splitft.errors import DataError, OutputError
from splitft.job import Job
from tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """400 rows in 80 documents, all different; four parties, one of them small."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(400):
        party = "Whig" if i >= 390 else ("Süd", "Nord", "West Wing")[i // 5 % 3]
        words = " ".join(rng.choice(["law", "people", "state", "peace"], size=rng.integers(1, 60)))
        rows.append({"text": f"{i} {words}", "document": i // 5, "party": party})
    path = tmp_path_factory.mktemp("corpus") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def job(corpus: Any, method: str = "iid", **keys: Any) -> Job:
    config = {name: keys.pop(name) for name in ("alpha", "column", "samples_per_client") if name in keys}
    defaults = {"document_column": "document", "max_length": 32}
    return Job(
        model_name_or_path="unused",
        data_files=corpus,
        partition={"method": method, **config},
        **{**defaults, **keys},
    )


def texts(prepared: Prepared, tokenizer: PreTrainedTokenizerFast, side: str) -> list[list[str]]:
    """First word of every row, which is its number in the file."""
    return [
        [tokenizer.decode(ids).split()[0] for ids in getattr(client, side).input_ids]
        for client in prepared.clients
    ]


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("iid", {}),
    ("length_dirichlet", {"alpha": 0.3}),
    ("dirichlet", {"alpha": 0.3, "column": "party"}),
    ("by_column", {"column": "party"}),
]


@pytest.mark.parametrize(("method", "keys"), METHODS)
def test_rows_are_dealt_once_and_documents_stay_on_one_side(
    corpus: str, tokenizer: PreTrainedTokenizerFast, method: str, keys: dict[str, Any]
) -> None:
    prepared = prepare(job(corpus, method, **keys), tokenizer)
    train, held = texts(prepared, tokenizer, "train"), texts(prepared, tokenizer, "eval")
    everything = [row for own in (*train, *held) for row in own]
    assert sorted(map(int, everything)) == list(range(400))
    trained_documents = {int(row) // 5 for own in train for row in own}
    held_documents = {int(row) // 5 for own in held for row in own}
    assert not trained_documents & held_documents
    assert all(train)
    assert all(held)
    report = prepared.report
    assert [entry.train_rows for entry in report.clients] == list(map(len, train))
    assert [entry.eval_rows for entry in report.clients] == list(map(len, held))
    assert [sum(entry.class_counts) for entry in report.clients] == list(map(len, train))
    assert [entry.train_tokens for entry in report.clients] == [c.train.tokens for c in prepared.clients]
    assert max(c.train.lengths.max() for c in prepared.clients) == 32
    assert report.truncated > 0
    assert report.document_of == "document"
    json.dumps(asdict(report))


def test_the_seed_alone_decides(corpus: str, tokenizer: PreTrainedTokenizerFast) -> None:
    keys: dict[str, Any] = {"alpha": 0.3}
    first, again, other = (
        texts(prepare(job(corpus, "length_dirichlet", seed=seed, **keys), tokenizer), tokenizer, "train")
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_natural_sites_take_their_names_and_number_from_the_data(
    corpus: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    prepared = prepare(job(corpus, "by_column", column="party"), tokenizer)
    assert [client.name for client in prepared.clients] == ["nord", "sud", "west-wing", "whig"]
    for side in ("train", "eval"):
        whig = {int(row) for row in texts(prepared, tokenizer, side)[3]}
        assert whig and whig <= set(range(390, 400))
    with pytest.raises(DataError, match=r"finds 4 clients in the data .*, but clients is 2: set clients=4"):
        prepare(job(corpus, "by_column", column="party", clients=2), tokenizer)
    assert len(prepare(job(corpus, "by_column", column="party", clients=9), tokenizer).clients) == 4


def test_one_file_per_client(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for name in ("north", "south"):
        lines = "\n".join(f"{name} row {i}" for i in range(20))
        (tmp_path / f"{name}.txt").write_text(lines)
    files = {"clinic": str(tmp_path / "north.txt"), "school": str(tmp_path / "south.txt")}
    common: dict[str, Any] = {"sample_by": "line", "document_column": None}
    named = prepare(job(files, "files", **common), tokenizer)
    assert [client.name for client in named.clients] == ["clinic", "school"]
    assert texts(named, tokenizer, "train") == [["north"] * 18, ["south"] * 18]
    assert texts(named, tokenizer, "eval") == [["north"] * 2, ["south"] * 2]
    listed = prepare(job(str(tmp_path / "*.txt"), "files", samples_per_client=50, **common), tokenizer)
    assert [client.name for client in listed.clients] == ["north", "south"]
    assert [len(client.train) for client in listed.clients] == [50, 50]
    pooled = prepare(job(list(files.values()), "iid", clients=3, **common), tokenizer)
    assert [len(client.train) for client in pooled.clients] == [12, 12, 12]
    (tmp_path / "void.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"fewer than 1 training rows: 'void' \(0\)"):
        prepare(job(str(tmp_path / "*.txt"), "files", **common), tokenizer)


def test_sample_limits(corpus: str, tokenizer: PreTrainedTokenizerFast) -> None:
    limits: dict[str, Any] = {"max_train_samples": 40, "max_eval_samples": 8}
    for method, keys in METHODS:
        prepared = prepare(job(corpus, method, **limits, **keys), tokenizer)
        assert sum(len(client.train) for client in prepared.clients) == 40
        assert sum(len(client.eval) for client in prepared.clients) == 8
        assert all(len(client.eval) for client in prepared.clients)
        assert prepared.report.unused == 400 - 48
    drawn = prepare(job(corpus, "length_dirichlet", samples_per_client=300), tokenizer)
    assert [len(client.train) for client in drawn.clients] == [300] * 5
    assert sum(len(client.eval) for client in drawn.clients) == 40  # held-out rows are never drawn twice


def test_packing_joins_rows_without_cutting_them(corpus: str, tokenizer: PreTrainedTokenizerFast) -> None:
    packed = prepare(job(corpus, packing=True), tokenizer)
    plain = prepare(job(corpus, max_length=10_000), tokenizer)
    for block, row, entry in zip(packed.clients, plain.clients, packed.report.clients, strict=True):
        joined = np.concatenate(row.train.input_ids)
        assert np.array_equal(np.concatenate(block.train.input_ids), joined[: block.train.tokens])
        assert len(joined) - block.train.tokens in (0, 1)
        assert set(block.train.lengths[:-1].tolist()) == {32}
        assert (entry.train_blocks, entry.train_rows) == (len(block.train), len(row.train))


def test_what_cannot_be_dealt_says_what_to_change(corpus: str, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"360 training rows cannot give 500 clients 1 row each"):
        prepare(job(corpus, clients=500), tokenizer)
    with pytest.raises(DataError, match="nothing can be held out"):
        prepare(job(corpus, "by_column", column="document", document_column="document"), tokenizer)


def test_table_and_picture(corpus: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    for number, (method, keys) in enumerate(METHODS):
        prepared = prepare(job(corpus, method, **keys), tokenizer)
        console = Console(width=140, file=io.StringIO())
        with console.capture() as capture:
            console.print(partition_table(prepared.report))
        shown = capture.get()
        for client in prepared.clients:
            assert f"{client.name} {len(client.train):,} {len(client.eval):,}" in " ".join(shown.split())
        for report in prepared.report.clients:
            assert f" {short_count(report.train_tokens)} " in shown  # "303", not "0k"
        path = tmp_path / f"{number}.png"
        partition_picture(prepared.report, path)
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
        large = [count for count, _ in colours if count > 500]
        assert len(large) >= len(prepared.report.classes)  # each class is drawn
    with pytest.raises(OutputError, match="cannot be written"):
        partition_picture(prepared.report, tmp_path / "no" / "such.png")

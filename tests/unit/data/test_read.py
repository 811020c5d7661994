"""Reading every format, and one clear message for every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from splitft.data.records import read_records
from splitft.data.sources import source_names
from splitft.data.table import split_text
from splitft.errors import DataError
from splitft.job import Job

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the law"}]


def job(**keys: Any) -> Job:
    return Job(model_name_or_path="unused", **keys)


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def texts(**keys: Any) -> list[str]:
    return [sample[0] for sample in read_records(job(**keys)).samples]


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    rows = ["one, two", 'says "yes"\nand goes on', "NA", "ünï — 日本"]
    quoted = "".join(f'"{row.replace(chr(34), chr(34) * 2)}",x\n' for row in rows)
    files = {
        "jsonl": write(tmp_path / "a.jsonl", "".join(json.dumps({"text": row}) + "\n" for row in rows)),
        "json": write(tmp_path / "a.json", json.dumps([{"text": row} for row in rows], indent=1)),
        "json lines": write(tmp_path / "b.json", "".join(json.dumps({"text": row}) + "\n" for row in rows)),
        "csv": write(tmp_path / "a.csv", "text,other\n" + quoted),
        "crlf": write(tmp_path / "b.csv", "text,other\r\n" + quoted.replace(",x\n", ",x\r\n")),
        "tsv": write(tmp_path / "a.tsv", "text\tother\n" + quoted.replace(",x\n", "\tx\n")),
        "bom": write(tmp_path / "c.csv", "text,other\n".encode("utf-8-sig") + quoted.encode()),
        "parquet": str(tmp_path / "a.parquet"),
    }
    Dataset.from_dict({"text": rows, "n": [1, 2, 3, 4]}).to_parquet(files["parquet"])
    for name, file in files.items():
        assert texts(data_files=file) == rows, name


def test_a_text_file_is_sampled_by_line_paragraph_or_document(tmp_path: Path) -> None:
    content = "first line\nsecond line\n\n \nthird\x0cline\r\n\r\nlast  \n"
    file = write(tmp_path / "a.txt", content)
    assert texts(data_files=file, sample_by="line") == [
        "first line",
        "second line",
        "third\x0cline",
        "last  ",
    ]
    assert texts(data_files=file) == ["first line\nsecond line", "third\x0cline", "last  "]
    assert texts(data_files=file, sample_by="document") == [content.replace("\r\n", "\n").strip("\n")]
    assert list(split_text("a\nb\n\n\nc", "paragraph")) == [(1, "a\nb"), (5, "c")]


def test_blank_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "a b"}\n{"text": "  "}\n\n{"text": null}\n{"text": "c"}\n')
    records = read_records(job(data_files=file))
    assert [sample[0] for sample in records.samples] == ["a b", "c"]
    assert records.dropped_blank == 2
    assert records.places == [f"{file}, line 1", f"{file}, line 5"]


def test_files_as_pattern_list_and_mapping(tmp_path: Path) -> None:
    north = write(tmp_path / "north" / "notes.txt", "n one\n\nn two")
    south = write(tmp_path / "south" / "notes.txt", "s one")
    odd = write(tmp_path / "odd[1].txt", "odd")
    records = read_records(job(data_files=str(tmp_path / "*" / "*.txt")))
    assert records.source_names == ("north-notes", "south-notes")
    assert records.sources.tolist() == [0, 0, 1]
    again = read_records(job(data_files=[south, str(tmp_path / "*" / "notes.txt"), odd]))
    assert again.source_names == ("south-notes", "north-notes", "odd-1")  # each file once
    assert again.sources.tolist() == [0, 1, 1, 2]
    named = read_records(
        job(data_files={"b": str(tmp_path / "*" / "*.txt"), "a": north}, partition={"method": "files"})
    )
    assert named.source_names == ("b", "a")
    assert named.sources.tolist() == [0, 0, 0, 1, 1]
    assert source_names([Path("x/a.txt"), Path("b.csv")]) == ("a", "b")


def test_kinds_of_rows_are_found_by_their_columns(tmp_path: Path) -> None:
    both = {"prompt": "Q", "completion": "A", "text": "T", "body": "B"}
    file = write(tmp_path / "both.jsonl", json.dumps(both))
    assert read_records(job(data_files=file)).samples == [("Q", "A")]
    assert texts(data_files=file, dataset_text_field="body") == ["B"]  # the job names the column itself
    chat = write(tmp_path / "chat.jsonl", json.dumps({"messages": MESSAGES, "text": "T"}))
    assert read_records(job(data_files=chat)).samples == [(MESSAGES,)]
    pair = {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}
    file = write(tmp_path / "pair.jsonl", json.dumps(pair))
    assert read_records(job(data_files=file)).samples == [(MESSAGES[:1], MESSAGES[1:])]
    columnar = str(tmp_path / "chat.parquet")
    extra = [{**MESSAGES[0], "name": "x"}, {**MESSAGES[1], "name": None}]
    Dataset.from_dict({"messages": [extra]}).to_parquet(columnar)
    read = read_records(job(data_files=columnar)).samples[0][0]
    assert read == [{**MESSAGES[0], "name": "x"}, MESSAGES[1]]  # no key without a value


def test_documents(tmp_path: Path) -> None:
    rows = [
        {"text": str(i), "doc": doc, "site": i % 2} for i, doc in enumerate(["x", "x", "y", None, None, "x"])
    ]
    file = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    records = read_records(job(data_files=file, document_column="doc"))
    assert (records.documents.tolist(), records.document_of) == ([0, 0, 1, 2, 3, 0], "doc")
    assert read_records(job(data_files=file)).documents.tolist() == list(range(6))
    for i in range(10):
        write(tmp_path / "many" / f"{i}.txt", "a\n\nb")
    many = str(tmp_path / "many" / "*.txt")
    assert read_records(job(data_files=many)).document_of == "file"  # one of ten files is a tenth
    assert read_records(job(data_files=many, eval_fraction=0.05)).document_of == "row"
    assert read_records(job(data_files=many, partition={"method": "files"})).document_of == "row"
    labelled = read_records(job(data_files=file, partition={"method": "by_column", "column": "site"}))
    assert labelled.labels == ["0", "1", "0", "1", "0", "1"]


def test_a_folder_in_hub_layout_is_read_through_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "set" / "train.jsonl", '{"text": "train a"}\n{"text": "train b"}\n')
    write(tmp_path / "set" / "test.jsonl", '{"text": "test a"}\n')
    name = str(tmp_path / "set")
    assert texts(dataset_name=name) == ["train a", "train b"]
    assert texts(dataset_name=name, dataset_split="test") == ["test a"]
    with pytest.raises(DataError, match=r"split 'dev' cannot be loaded: .*check these names"):
        texts(dataset_name=name, dataset_split="dev")


def row(**values: Any) -> str:
    return json.dumps(values)


BAD: dict[str, tuple[str, str | bytes, dict[str, Any], str]] = {
    "missing": (
        "",
        "",
        {"data_files": "no/such.txt"},
        r"no/such.txt: no such file \(relative paths start at",
    ),
    "long name": ("", "", {"data_files": "x" * 5000}, "no such file"),
    "NUL": ("", "", {"data_files": "a\0b"}, "no such file"),
    "pattern": ("", "", {"data_files": "no/*.txt"}, "no file matches this pattern"),
    "url": ("", "", {"data_files": "https://x/a.txt"}, "takes local files"),
    "folder": ("d/x.txt", "a", {"data_files": "{}/d"}, "is a folder; give a file or a pattern"),
    "format": ("a.docx", "a", {}, r"unknown format '.docx'; use one of .txt"),
    "empty": ("a.txt", "", {}, r"no rows in .*a.txt"),
    "blank": ("a.jsonl", row(text=" "), {}, r"no row with text in .*a.jsonl"),
    "empty csv": ("a.csv", "text\n", {}, r"no rows in .*a.csv"),
    "encoding": ("a.txt", b"fine\nnot \xff fine", {}, "a.txt, line 2: not UTF-8 text"),
    "json": ("a.jsonl", row(text="a") + '\n{"text": \n', {}, "a.jsonl, line 2, column 10: not valid JSON"),
    "json array": (
        "a.json",
        '[{"text": "a"},\n {"text" 1}]',
        {},
        "a.json, line 2, column 10: not valid JSON",
    ),
    "json value": ("a.jsonl", '{"text": "a"}\n["b"]', {}, "line 2: expected an object .* found list"),
    "json depth": ("a.jsonl", "[" * 100_000, {}, "line 1: JSON that cannot be read"),
    "csv cells": ("a.csv", "text,n\na,1\nb\n", {}, "a.csv, line 3: 1 cells, but the header has 2"),
    "csv quote": ("a.csv", 'text\n"a\n', {}, "a.csv, line 2: malformed csv"),
    "csv names": ("a.csv", "text,text\na,b\n", {}, "two columns have the same name"),
    "parquet": ("a.parquet", b"PAR1 nonsense", {}, "a.parquet: not a readable parquet file"),
    "column": (
        "a.csv",
        "txet,n\na,1\n",
        {},
        r"no column 'text'.*columns: txet, n; .*: dataset_text_field=txet$",
    ),
    "no column": ("a.jsonl", "{}", {}, "it has no columns"),
    "type": ("a.jsonl", row(text="a") + "\n" + row(text=3), {}, "line 2: column 'text' holds .* type int"),
    "surrogate": ("a.jsonl", '{"text": "ab\\ud800"}', {}, "line 1: broken Unicode at character 3"),
    "messages": (
        "a.jsonl",
        row(messages="hi"),
        {},
        "line 1: column 'messages' holds .* not a list of messages",
    ),
    "no role": ("a.jsonl", row(messages=[{"content": "a"}]), {}, "is not an object with role and content"),
    "sharegpt": ("a.jsonl", row(messages=[{"from": "human"}]), {}, "a message in 'messages' has no content"),
    "no content": ("a.jsonl", row(messages=[{"role": "user"}]), {}, "a message in 'messages' has no content"),
    "mixed pair": ("a.jsonl", row(prompt="a", completion=MESSAGES), {}, "'completion' holds .* not text"),
    "label": (
        "a.csv",
        "text,partei\na,1\n",
        {"partition": {"method": "by_column", "column": "party"}},
        r"no column 'party' \(partition.column\); columns: text, partei; did you mean partei\?",
    ),
    "no label": (
        "a.jsonl",
        row(text="a", site=1) + "\n" + row(text="b"),
        {"partition": {"method": "dirichlet", "column": "site"}},
        r"line 2: column 'site' \(partition.column\) holds no value",
    ),
    "document": ("a.csv", "text\na\n", {"document_column": "doc"}, r"no column 'doc' \(document_column\)"),
    "built-in": ("", "", {"dataset_name": "builtin:none"}, "no such built-in corpus; there is builtin:sotu"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_message(case: str, tmp_path: Path) -> None:
    name, content, keys, message = BAD[case]
    file = write(tmp_path / name, content) if name else ""
    if "dataset_name" not in keys:
        keys = {"data_files": file, **keys}
        keys["data_files"] = keys["data_files"].replace("{}", str(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        read_records(job(**keys))
    assert "\n" not in str(caught.value)


def test_files_with_different_columns_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "text\na\n")
    second = write(tmp_path / "b.csv", "body\nb\n")
    with pytest.raises(DataError, match=r"b.csv: no column 'text', which the first file \(.*a.csv\) has"):
        read_records(job(data_files=[first, second]))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)
    with pytest.raises(DataError, match=r"loop.txt: (no such file|cannot be read)"):
        read_records(job(data_files=str(loop)))

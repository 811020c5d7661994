"""Mistakes of an engineer with private files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
from mistakes import GONE, TEXTS, Mistake, empty_folder, jsonl, m, paragraphs

SITES = {f"{name}.txt": paragraphs(name) for name in ("north", "south", "west")}
OF_SITES = [f"{{folder}}/{name}" for name in SITES]
PAIRS = [{"prompt": f"law {i}?", "completion": f" rule {i}"} for i in range(20)]
PREFERENCES = {"chosen": "b", "rejected": "c"}
NORTH = {"north.txt": paragraphs()}


def parquet_without_text(job: dict[str, Any], folder: Path) -> None:
    datasets.Dataset.from_dict({"body": TEXTS}).to_parquet(folder / "rows.parquet")
    job["data_files"] = str(folder / "rows.parquet")


ENGINEER: dict[str, Mistake] = {
    "a wrong path": m(3, "no-rows.txt: no such file", data_files="{folder}/no-rows.txt"),
    "a pattern without a match": m(3, "no file matches this pattern", data_files="{folder}/*.csv"),
    "an address for a file": m(3, "local files; download it", data_files="https://example.org/rows.jsonl"),
    "a folder for a file": m(
        3, "empty: is a folder | /*.txt", make=empty_folder, data_files="{folder}/empty"
    ),
    "an empty file": m(3, "no rows in", data=("rows.txt", "")),
    "a header alone": m(3, "no rows in", data=("rows.csv", "text\n")),
    "a picture": m(3, "a.txt: no text, but binary data", data=("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")),
    "a packed file": m(3, "a.csv.gz: a packed file; unpack it", data=("a.csv.gz", gzip.compress(b"a"))),
    "a spreadsheet": m(3, "rows.xlsx | unknown format | .csv", data=("rows.xlsx", b"PK\x03\x04")),
    "a file with a parquet's name": m(3, "bad.parquet", data=("bad.parquet", b"\x00\xff\xfenot parquet")),
    "a parquet file without the column": m(3, "no column 'text' | columns: body", make=parquet_without_text),
    "a Windows encoding": m(
        3, "a.csv, line 2 | not UTF-8 | CSV UTF-8", data=("a.csv", "text;n\r\ngrün;1\r\n".encode("cp1252"))
    ),
    "a file of Latin-1": m(3, "rows.txt, line 1 | convert", data=("rows.txt", "grün".encode("latin-1"))),
    "commas without quotes": m(
        3, "rows.csv, line 2 | 2 cells | header has 1 | quotes", data=("rows.csv", "text\nwe, the people\n")
    ),
    "a table without a header": m(
        3, "is the first line a row?", data=("rows.csv", "\n".join(f"{i},{t}" for i, t in enumerate(TEXTS)))
    ),
    "a capital letter": m(
        3, "columns: id, Text | dataset_text_field=Text", data=("a.csv", "id,Text\n1,a law\n")
    ),
    "text under another name": m(
        3, "columns: id, note | dataset_text_field=note", data=("a.csv", "id,note\n1,the patient is well\n")
    ),
    "questions and answers": m(
        3, "rename question to prompt and answer to completion", data=("faq.csv", "question,answer\na,b\n")
    ),
    "text in another key": m(3, "text | body", data=("rows.jsonl", '{"body": "a law"}\n' * 9)),
    "numbers for text": m(3, "line 1 | int, not text", data=("a.jsonl", jsonl([{"text": 1}]))),
    "JSON with a comma at the end": m(
        3, "rows.json, line 3, column 1: not valid JSON", data=("rows.json", '[\n{"text": "a"},\n]')
    ),
    "lines of JSON with commas": m(
        3, "rows.jsonl, line 1 | not valid JSON", data=("rows.jsonl", jsonl([{"text": "a"}] * 3, ",\n"))
    ),
    "lines of text for objects": m(3, "expected an object", data=("rows.jsonl", jsonl(TEXTS))),
    "rows within an object": m(
        3, "rows.json | one object | 'data' | write that list alone",
        data=("rows.json", json.dumps({"version": 1, "data": [{"text": "a"}]}, indent=2)),
    ),
    "messages for a model without a template": m(
        3, "no chat template", data=("a.jsonl", jsonl([{"messages": [{"role": "user", "content": "a"}]}] * 9))
    ),
    "preferences": m(
        3, "preference data | rename chosen to completion",
        data=("rows.jsonl", jsonl([{"prompt": "a"} | PREFERENCES] * 9)),
    ),
    "preferences without prompts": m(
        3, "preference data | set dataset_text_field=chosen", data=("rows.jsonl", jsonl([PREFERENCES] * 9))
    ),
    "prompts and texts in one file": m(
        3, "rows.jsonl | 30 of 50 rows have text and no prompt + completion | line 21 | one kind",
        data=("rows.jsonl", jsonl(PAIRS + [{"text": text} for text in TEXTS])),
    ),
    "a text beside a table of questions": m(
        3, "faq.csv | no column 'text' | north.txt | question, answer | one kind",
        files={**NORTH, "faq.csv": "question,answer\na,b\n"},
        data_files=["{folder}/north.txt", "{folder}/faq.csv"],
    ),
    "lines meant to be rows": m(
        3, "lines.txt | the only row | sample_by=line", data=("lines.txt", "\n".join(TEXTS))
    ),
    "a single row": m(
        3, "a.jsonl | the only row | add data | eval_files", data=("a.jsonl", jsonl([{"text": "the law"}]))
    ),
    "two rows": m(
        3, "1 training rows cannot give 2 clients | lower clients to 1",
        data=("rows.jsonl", jsonl([{"text": "the law"}, {"text": "the rule"}])),
    ),
    "four rows for five clients": m(
        3, "cannot give 5 clients 1 row each | lower clients to 3",
        data=("rows.jsonl", jsonl([{"text": text} for text in TEXTS[:4]])), clients=5,
    ),
    "more clients than rows": m(3, "50 | rows", clients=50, partition={"method": "iid"}),
    "prompts that fill every row": m(
        3, "no token with loss | max_length=32 | raise max_length",
        data=("rows.jsonl", jsonl([{"prompt": "the law " * 50, "completion": "yes"}] * 9)),
    ),
    "more clients than files": m(
        3, "finds 3 clients | north, south, west | clients is 5 | set clients=3 | partition.method=iid",
        files=SITES, data_files=OF_SITES, clients=5, partition={"method": "files"},
    ),
    "fewer clients than files": m(
        3, "finds 3 clients | clients is 2 | set clients=3",
        files=SITES, data_files=OF_SITES, partition={"method": "files"},
    ),
    "cuts for other sites": m(
        2, "cuts | 3 | 2 clients | north", files=SITES, clients=GONE, cuts=[1, 2, 3],
        data_files={"north": OF_SITES[0], "south": OF_SITES[1]},
    ),
    "a site without rows": m(
        3, "south | min_rows", files={**NORTH, "empty.txt": ""}, clients=GONE,
        data_files={"north": "{folder}/north.txt", "south": "{folder}/empty.txt"},
    ),
    "two sites of one name": m(
        2, "north: given twice", "run {folder}/a.yaml",
        files={"a.yaml": "data_files: {north: a.txt, north: b.txt}\nmodel_name_or_path: x\n"},
    ),
    "sites that are dealt": m(
        2, "partition.method | data_files as a list", clients=GONE, partition={"method": "iid"},
        data_files={"north": OF_SITES[0]},
    ),
    "a column of sites that is not there": m(
        3, "no column 'site' (partition.column)", clients=GONE,
        partition={"method": "by_column", "column": "site"},
    ),
    "an evaluation file that is not there": m(
        3, "tset.jsonl | no such file", eval_files="{folder}/tset.jsonl"
    ),
    "an evaluation file of no client": m(
        3, "eval_files: noth: no client has this name | client-0, client-1",
        files=NORTH, eval_files={"noth": "{folder}/north.txt"},
    ),
    "an evaluation file without the text": m(
        3, "test.csv | no column 'text' | id, body",
        files={"test.csv": "id,body\n1,a law\n"}, eval_files="{folder}/test.csv",
    ),
    "a split of files": m(2, "dataset_test_split | name files as eval_files", dataset_test_split="test"),
    "a split of the corpus": m(
        2, "dataset_test_split | builtin:sotu has one split",
        data_files=GONE, dataset_name="builtin:sotu", dataset_test_split="test",
    ),
    "a split that is trained on": m(
        2, "train is the split that is trained on",
        data_files=GONE, dataset_name="some/set", dataset_test_split="train",
    ),
    "two evaluation sets": m(
        2, "eval_files | dataset_test_split, not both",
        data_files=GONE, dataset_name="some/set", dataset_test_split="test", eval_files="test.jsonl",
    ),
}  # fmt: skip

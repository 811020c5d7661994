"""Formats of other people's rows: what is converted, what is refused, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from splitft.data.records import Records, read_records
from splitft.errors import DataError
from splitft.job import Job

ALPACA = {"instruction": "Name the law.", "input": "of {1789}", "output": "The rule."}
PROMPT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\nName the law.\n\n"
    "### Input:\nof {1789}\n\n### Response:\n"
)
CONVERSATION = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "the law"}]
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the law"}]


def read(path: Path, content: str | bytes | list[dict[str, Any]], **keys: Any) -> Records:
    if isinstance(content, list):
        content = "\n".join(map(json.dumps, content))
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_records(Job(model_name_or_path="unused", data_files=str(path), **keys))


def test_alpaca_rows_become_prompt_and_completion_by_its_template(tmp_path: Path) -> None:
    alone = {**ALPACA, "input": ""}
    records = read(
        tmp_path / "a.jsonl", [ALPACA, alone, {**ALPACA, "instruction": "", "input": "", "output": ""}]
    )
    assert records.kind == "prompt_completion"
    assert records.samples[0] == (PROMPT, "The rule.")
    assert "### Input" not in records.samples[1][0]
    assert "provides further context" not in records.samples[1][0]
    assert records.dropped_blank == 1
    assert "a.jsonl: Alpaca rows (instruction, input, output) become prompt + completion" in records.notes[0]
    with_text = read(tmp_path / "b.jsonl", [{**ALPACA, "text": "whole"}])  # as the published file has it, too
    assert (with_text.samples, with_text.notes) == ([("whole",)], ())


@pytest.mark.parametrize("column", ["conversations", "messages"])
def test_sharegpt_conversations_become_messages(tmp_path: Path, column: str) -> None:
    records = read(
        tmp_path / "a.jsonl", [{column: CONVERSATION, "system": "be kind"}, {column: CONVERSATION}]
    )
    assert records.samples == [([{"role": "system", "content": "be kind"}, *MESSAGES],), (MESSAGES,)]
    assert "(ShareGPT)" in records.notes[0]
    parquet = tmp_path / "a.parquet"
    Dataset.from_dict({column: [CONVERSATION]}).to_parquet(str(parquet))
    again = read_records(Job(model_name_or_path="unused", data_files=str(parquet)))
    assert again.samples == [(MESSAGES,)]


def test_one_note_tells_of_all_files_that_were_converted_alike(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(ALPACA))
    records = read_records(Job(model_name_or_path="unused", data_files=str(tmp_path / "*.jsonl")))
    assert len(records.notes) == 1
    assert "c.jsonl and 2 more: Alpaca rows" in records.notes[0]


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "rename chosen to completion"),
        ({"chosen": "b", "rejected": "c"}, "set dataset_text_field=chosen"),
        ({"chosen": MESSAGES, "rejected": MESSAGES}, "rename chosen to messages"),
    ],
)
def test_preferences_are_refused_with_the_column_to_train_on(
    tmp_path: Path, row: dict[str, Any], advice: str
) -> None:
    with pytest.raises(DataError, match=f"preference data, and SplitFT trains on texts alone; .*{advice}"):
        read(tmp_path / "a.jsonl", [row])
    if advice.startswith("set"):
        assert read(tmp_path / "a.jsonl", [row], dataset_text_field="chosen").samples == [("b",)]


CSV: dict[str, tuple[str | bytes, list[str]]] = {
    "Excel, with a BOM and empty columns": (
        "\ufefftext;n;;\r\n\"a; b, c\";1;;\r\nd;2;;\r\n;;;\r\n", ["a; b, c", "d"]
    ),
    "Excel's own first line": ("sep=;\r\ntext;n\r\na, b;1\r\n", ["a, b"]),
    "bars": ("n|text\n1|a, b;c\n", ["a, b;c"]),
    "tabs": ("n\ttext\n1\ta, b\n", ["a, b"]),
    "UTF-16": ("n;text\r\n1;grün\r\n".encode("utf-16"), ["grün"]),
    "commas, though the header holds a semicolon": ('text,"a;b;c"\nx,y\n', ["x"]),
    "one column": ("text\na;b\n", ["a;b"]),
    "an index without a name": (",text\n0,a\n1,b\n", ["a", "b"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CSV)
def test_a_csv_file_is_read_with_the_mark_that_parts_its_header(tmp_path: Path, case: str) -> None:
    content, wanted = CSV[case]
    records = read(tmp_path / "a.csv", content)
    assert [sample[0] for sample in records.samples] == wanted
    told = any("between cells" in note for note in records.notes)
    assert told == (
        case not in ("commas, though the header holds a semicolon", "one column", "an index without a name")
    )


def test_an_array_in_a_jsonl_file_is_read(tmp_path: Path) -> None:
    records = read(tmp_path / "a.jsonl", json.dumps([{"text": "a"}, {"text": "b"}], indent=1))
    assert records.samples == [("a",), ("b",)]


# Rows that lack the columns of the others


def test_rows_of_two_kinds_are_refused_with_their_number_and_place(tmp_path: Path) -> None:
    pair, text = {"prompt": "a", "completion": "b"}, {"text": "c"}
    wanted = r"2 of 5 rows have text and no prompt \+ completion \(the first is line 4\)"
    with pytest.raises(DataError, match=wanted):
        read(tmp_path / "a.jsonl", [pair] * 3 + [text] * 2)
    with pytest.raises(DataError, match=r"1 of 2 rows have messages and no text"):
        read(tmp_path / "a.jsonl", [text, {"messages": MESSAGES}], dataset_text_field="text")
    with pytest.raises(DataError, match=r"1 of 2 rows have instruction \+ output and no text"):
        read(tmp_path / "a.jsonl", [text, ALPACA])
    with pytest.raises(DataError, match=r"1 of 2 rows have text and no messages"):
        read(tmp_path / "a.jsonl", [{"messages": MESSAGES}, text])


def test_rows_with_their_text_elsewhere_are_not_called_blank(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"body": "b"}, {"text": " "}, {"text": None}, {"body": "c"}]
    records = read(tmp_path / "a.jsonl", rows)
    assert (len(records), records.dropped_without, records.dropped_blank) == (1, 2, 2)
    assert records.notes == (
        f"{tmp_path}/a.jsonl: 2 rows have no 'text' and are left out; the first is line 2",
    )


def test_the_columns_of_the_first_file_are_those_of_all(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("question,answer\na,b\n")
    with pytest.raises(
        DataError, match=r"b.csv: no column 'text', which the first file \(.*a.txt\) has; columns: q"
    ):
        (tmp_path / "a.txt").write_text("a b")
        files = [str(tmp_path / "a.txt"), str(tmp_path / "b.csv")]
        read_records(Job(model_name_or_path="unused", data_files=files))

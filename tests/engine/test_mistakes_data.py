"""Mistakes of real people with their data, at the command line: one clear line, and the right exit code.

Each case spoils the good job; REFUSED ends with an error, TOLD trains and says what nobody may expect.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_jobs import Settings, assert_one_message, write_job

from splitft.launch import cli
from tiny import CHAT_TEMPLATE, save_tiny_model, save_to

Case = Callable[[Settings, Path], tuple[str, ...]]
TEXTS = [f"the people of the united states made law number {i}" for i in range(30)]
PAIRS = [{"prompt": f"law {i}?", "completion": f" rule {i}"} for i in range(20)]


def jsonl(job: Settings, folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> None:
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    job["data_files"] = str(folder / name)


def raw(job: Settings, folder: Path, name: str, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(data)
    job["data_files"] = str(folder / name)


def sites(job: Settings, folder: Path) -> None:
    """Three files, one for each of three hospitals; the job no longer states clients."""
    for name in ("north", "south", "west"):
        (folder / f"{name}.txt").write_text("\n\n".join(f"{name} {text}" for text in TEXTS), encoding="utf-8")
    job["data_files"] = [str(folder / f"{name}.txt") for name in ("north", "south", "west")]
    del job["clients"]


# Refused


def prompts_and_texts_in_one_file(job: Settings, folder: Path) -> tuple[str, ...]:
    jsonl(job, folder, PAIRS + [{"text": text} for text in TEXTS])
    return ("rows.jsonl", "30 of 50 rows have text and no prompt + completion", "line 21", "one kind")


def a_text_file_beside_a_table_of_questions(job: Settings, folder: Path) -> tuple[str, ...]:
    first = job["data_files"]
    raw(job, folder, "faq.csv", "question,answer\na,b\n")
    job["data_files"] = [first, job["data_files"]]
    return ("faq.csv", "no column 'text'", "rows.txt", "question, answer", "one kind")


def questions_and_answers(job: Settings, folder: Path) -> tuple[str, ...]:
    raw(job, folder, "faq.csv", "question,answer\na,b\n")
    return ("rename question to prompt and answer to completion",)


def text_under_another_name(job: Settings, folder: Path) -> tuple[str, ...]:
    raw(job, folder, "notes.csv", "id,note\n1,the patient is well\n")
    return ("columns: id, note", "dataset_text_field=note")


def preferences(job: Settings, folder: Path) -> tuple[str, ...]:
    jsonl(job, folder, [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 9)
    return ("preference data", "rename chosen to completion")


def preferences_without_prompts(job: Settings, folder: Path) -> tuple[str, ...]:
    jsonl(job, folder, [{"chosen": "b", "rejected": "c"}] * 9)
    return ("preference data", "set dataset_text_field=chosen")


def texts_with_commas_and_without_quotes(job: Settings, folder: Path) -> tuple[str, ...]:
    raw(job, folder, "rows.csv", "text\nwe, the people\n")
    return ("rows.csv, line 2", "2 cells", "header has 1", "quotes")


def a_windows_encoding(job: Settings, folder: Path) -> tuple[str, ...]:
    raw(job, folder, "rows.csv", "text;n\r\ngrün;1\r\n".encode("cp1252"))
    return ("rows.csv, line 2", "not UTF-8", "CSV UTF-8")


def a_spreadsheet(job: Settings, folder: Path) -> tuple[str, ...]:
    raw(job, folder, "rows.xlsx", b"PK\x03\x04")
    return ("rows.xlsx", "unknown format", ".csv")


def rows_within_an_object(job: Settings, folder: Path) -> tuple[str, ...]:
    raw(job, folder, "rows.json", json.dumps({"version": 1, "data": [{"text": "a"}]}, indent=2))
    return ("rows.json", "one object", "'data'", "write that list alone")


def a_folder(job: Settings, folder: Path) -> tuple[str, ...]:
    (folder / "texts").mkdir()
    job["data_files"] = str(folder / "texts")
    return ("texts", "is a folder", "/*.txt")


def a_line_is_meant_to_be_a_row(job: Settings, folder: Path) -> tuple[str, ...]:
    raw(job, folder, "lines.txt", "\n".join(TEXTS))
    return ("lines.txt", "the only row", "sample_by=line")


def a_single_row(job: Settings, folder: Path) -> tuple[str, ...]:
    jsonl(job, folder, [{"text": "the law"}])
    return ("rows.jsonl", "the only row", "add data", "eval_files")


def two_rows(job: Settings, folder: Path) -> tuple[str, ...]:
    jsonl(job, folder, [{"text": "the law"}, {"text": "the rule"}])
    return ("1 training rows cannot give 2 clients", "lower clients to 1")


def prompts_that_fill_every_row(job: Settings, folder: Path) -> tuple[str, ...]:
    jsonl(job, folder, [{"prompt": "the law " * 50, "completion": "yes"}] * 9)
    return ("no token with loss", "max_length=32", "raise max_length")


def more_clients_than_files(job: Settings, folder: Path) -> tuple[str, ...]:
    sites(job, folder)
    job.update(clients=5, partition={"method": "files"})
    return ("finds 3 clients", "north, south, west", "clients is 5", "set clients=3", "partition.method=iid")


def fewer_clients_than_files(job: Settings, folder: Path) -> tuple[str, ...]:
    sites(job, folder)
    job.update(clients=2, partition={"method": "files"})
    return ("finds 3 clients", "clients is 2", "set clients=3")


def an_evaluation_file_that_is_not_there(job: Settings, folder: Path) -> tuple[str, ...]:
    job["eval_files"] = str(folder / "tset.jsonl")
    return ("tset.jsonl", "no such file")


def an_evaluation_file_of_no_client(job: Settings, folder: Path) -> tuple[str, ...]:
    job["eval_files"] = {"noth": job["data_files"]}
    return ("eval_files: noth: no client has this name", "client-0, client-1")


def an_evaluation_file_without_the_text(job: Settings, folder: Path) -> tuple[str, ...]:
    (folder / "test.csv").write_text("id,body\n1,a law\n", encoding="utf-8")
    job["eval_files"] = str(folder / "test.csv")
    return ("test.csv", "no column 'text'", "id, body")


def a_split_of_files(job: Settings, folder: Path) -> tuple[str, ...]:
    job["dataset_test_split"] = "test"
    return ("dataset_test_split", "name files as eval_files")


def a_split_of_the_corpus(job: Settings, folder: Path) -> tuple[str, ...]:
    del job["data_files"]
    job.update(dataset_name="builtin:sotu", dataset_test_split="test")
    return ("dataset_test_split", "builtin:sotu has one split")


def a_split_that_is_trained_on(job: Settings, folder: Path) -> tuple[str, ...]:
    del job["data_files"]
    job.update(dataset_name="some/set", dataset_test_split="train")
    return ("dataset_test_split", "train is the split that is trained on")


def two_evaluation_sets(job: Settings, folder: Path) -> tuple[str, ...]:
    del job["data_files"]
    job.update(dataset_name="some/set", dataset_test_split="test", eval_files="test.jsonl")
    return ("eval_files", "dataset_test_split, not both")


def keys_of_run_clm(job: Settings, folder: Path) -> tuple[str, ...]:
    job.update(train_file="a.txt", validation_file="b.txt", block_size=64)
    return ("train_file: set data_files", "validation_file: set eval_files", "block_size: set max_length")


def chunks_of_packed_rows(job: Settings, folder: Path) -> tuple[str, ...]:
    job.update(packing=True, truncation_mode="chunk")
    return ("truncation_mode", "packing keeps all tokens")


def the_end_of_long_rows(job: Settings, folder: Path) -> tuple[str, ...]:
    job["truncation_mode"] = "keep_end"  # as TRL has it
    return ("truncation_mode", "keep_start, chunk")


REFUSED: dict[Case, int] = {
    **dict.fromkeys(
        (
            prompts_and_texts_in_one_file, a_text_file_beside_a_table_of_questions, questions_and_answers,
            text_under_another_name, preferences, preferences_without_prompts,
            texts_with_commas_and_without_quotes, a_windows_encoding, a_spreadsheet, rows_within_an_object,
            a_folder, a_line_is_meant_to_be_a_row, a_single_row, two_rows, prompts_that_fill_every_row,
            more_clients_than_files, fewer_clients_than_files, an_evaluation_file_that_is_not_there,
            an_evaluation_file_of_no_client, an_evaluation_file_without_the_text,
        ),
        3,
    ),
    **dict.fromkeys(
        (
            a_split_of_files, a_split_of_the_corpus, a_split_that_is_trained_on, two_evaluation_sets,
            keys_of_run_clm, chunks_of_packed_rows, the_end_of_long_rows,
        ),
        2,
    ),
}  # fmt: skip


def run_job(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code and what it told."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("sys.argv", ["splitft", "run", str(job)])
    capsys.readouterr()
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capsys.readouterr()
    return code, " ".join(told.out.split()), told.err


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__)
def test_a_mistake_that_is_refused(
    case: Case,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = case(settings, tmp_path)
    code, _, error = run_job(write_job(settings, tmp_path), monkeypatch, capsys)
    assert code == REFUSED[case], error
    assert_one_message(error, wanted)
    assert not (tmp_path / "out" / "history.jsonl").exists()


# Told


def files_put_together(job: Settings, folder: Path) -> tuple[str, ...]:
    sites(job, folder)
    return ("rows of 3 files are put together and dealt to 5 clients at random", "partition.method=files")


def text_in_other_columns(job: Settings, folder: Path) -> tuple[str, ...]:
    jsonl(job, folder, [{"text": text} for text in TEXTS] + [{"body": text} for text in TEXTS[:20]])
    return (
        "20 rows have no 'text' and are left out; the first is line 31",
        "20 rows with text in other columns",
    )


def alpaca(job: Settings, folder: Path) -> tuple[str, ...]:
    job["max_length"] = 120
    rows = [{"instruction": f"law {i}", "input": "", "output": f"rule {i} " * 4} for i in range(30)]
    raw(job, folder, "alpaca.json", json.dumps(rows))
    return ("alpaca.json: Alpaca rows (instruction, input, output) become prompt + completion",)


def sharegpt(job: Settings, folder: Path) -> tuple[str, ...]:
    model = save_tiny_model(folder / "chat", "gpt2")
    save_to(model, CHAT_TEMPLATE)
    job["model_name_or_path"] = str(model)
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "the law"}]
    jsonl(job, folder, [{"conversations": turns}] * 30)
    return ("conversations (ShareGPT) become messages", "3 held-out rows also trained on")


def a_table_from_excel(job: Settings, folder: Path) -> tuple[str, ...]:
    lines = "".join(f'"{text}; so it is";{i};;\r\n' for i, text in enumerate(TEXTS))
    raw(job, folder, "rows.csv", f"\ufefftext;number;;\r\n{lines};;;\r\n")
    return ("rows.csv: read with ';' between cells", "1 row blank")


def copies(job: Settings, folder: Path) -> tuple[str, ...]:
    jsonl(job, folder, [{"text": TEXTS[i % 10] + " " * (i % 2)} for i in range(40)])
    return ("4 of 4 held-out rows are also training rows, word for word", "document_column")


def documents_cut_off(job: Settings, folder: Path) -> tuple[str, ...]:
    jsonl(job, folder, [{"text": f"{text} " * 20} for text in TEXTS])
    return ("max_length=32 cuts 30 rows and loses", "of all tokens", "truncation_mode=chunk keeps them")


def clients_without_evaluation_rows(job: Settings, folder: Path) -> tuple[str, ...]:
    job["eval_files"] = {"client-1": str(folder / "test.txt")}
    (folder / "test.txt").write_text("\n\n".join(f"new {text}" for text in TEXTS), encoding="utf-8")
    return ("eval_files has no rows for client-0: not evaluated there", "evaluation rows: eval_files")


TOLD = (
    files_put_together, text_in_other_columns, alpaca, sharegpt, a_table_from_excel, copies,
    documents_cut_off, clients_without_evaluation_rows,
)  # fmt: skip


@pytest.mark.parametrize("case", TOLD, ids=lambda case: case.__name__)
def test_a_surprise_that_is_told(
    case: Case,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("perplexity_picture", "partition_picture"):
        monkeypatch.setattr(f"splitft.running.runner.{name}", lambda *_: None)
    wanted = case(settings, tmp_path)
    code, told, error = run_job(write_job(settings, tmp_path), monkeypatch, capsys)
    assert code == 0, error
    assert not [part for part in wanted if part not in told], told
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert any(wanted[0].split("; ")[0] in notice for notice in summary["notices"])
    if case is copies:
        assert summary["data"]["leaked_eval_rows"] == summary["data"]["eval_rows"] == 4
    if case is documents_cut_off:
        assert summary["data"]["truncated_tokens_share"] > 0.8

"""Data with a surprise that a run takes, and tells; mistakes_engineer.py has what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_jobs import Settings, write_job

from cases import rest_slow
from splitft.launch import cli
from tiny import CHAT_TEMPLATE, save_tiny_model, save_to

Case = Callable[[Settings, Path], tuple[str, ...]]
TEXTS = [f"the people of the united states made law number {i}" for i in range(30)]


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


@pytest.mark.parametrize("case", rest_slow(TOLD, 4), ids=lambda case: case.__name__)
def test_a_surprise_that_is_told(
    case: Case,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
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

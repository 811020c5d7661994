"""Narrow terminals: no word is broken or left out where it fits the width."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace

import pytest
from rich.console import Console

from commands import splitft
from splitft.common.tables import make_table
from splitft.history import ClientRecord, RoundRecord
from splitft.job.recipes import recipes
from splitft.job.settings import FederationSettings
from splitft.launch.cli import app
from splitft.launch.width import listed
from splitft.running.progress import RunProgress, clients_table, rounds_table
from splitft.wire.ledger import Ledger

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]
CLIENTS = {f"client-{i}": ClientRecord(2, 3.1, 345.678, 0.234, 0.2, 123_456, 999, None) for i in range(3)}
RECORD = RoundRecord(
    0, tuple(CLIENTS), dict.fromkeys(CLIENTS, 2), 3.123, 345.678, 0.23, 0.2, CLIENTS, 370_368,
    123_400_000, 123_400_000, 12_300_000, 12_300_000, {}, 75.0, 12.0, 345.6, "client-1", {}, {},
)  # fmt: skip
ARGUMENTS = {
    "new": ("A recipe's name",), "check": ("A model folder", "Set keys"), "report": ("Folders of runs",),
    "export": ("The output_dir of a run.", "Folder to write"), "evaluate": ("A run's output_dir",),
    "aggregator": ("The server's job file", "Set keys"), "certs init": ("Names and addresses",),
    "certs add": ("The clients' names",), "certs aggregator": ("Names and addresses",),
    "certs revoke": ("Clients that may not come in",), "certs renew": ("Clients, server or",),
    **dict.fromkeys(("run", "server", "plan", "audit", "compare"), ("A job file", "Set keys of the job:")),
}  # fmt: skip


@pytest.mark.parametrize("columns", [60, 100])
def test_help_explains_every_argument_once(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command, explained in ARGUMENTS.items():
        splitft(*command.split(), "--help", monkeypatch=monkeypatch)
        told = " ".join(capsys.readouterr().out.split())
        assert [told.count(words) for words in explained] == [1] * len(explained), told


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_room_in_sixty_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert splitft(*([command] if command else []), "--help", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert "…" not in told
    assert max(map(len, told.splitlines())) <= 60


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_recipes_are_listed_in_the_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = list(listed(recipes()))
    assert max(map(len, lines)) <= columns
    words = " ".join(lines).split()
    assert words == [word for name, text in recipes().items() for word in (name, *text.split())]


def printed(table: object, width: int) -> str:
    file = io.StringIO()
    Console(width=width, file=file).print(table)
    return file.getvalue()


def test_a_table_that_does_not_fit_becomes_a_list() -> None:
    headings = ("client", "tokens trained", "perplexity before", "perplexity after", "raspberry_pi_4")
    table = make_table("Clients", *headings)
    table.add_row("client-0", "1,234,567", "345.69", "211.15", "12.3 s")
    table.add_row("client-1", "7,654,321", "123.45", "100.01", "1.23 s")
    wide, tight, narrow = printed(table, 100), printed(table, 60), printed(table, 40)
    for text in (wide, tight, narrow):
        for word in ("client-1", "7,654,321", "123.45", "raspberry_pi_4", "1.23 s"):
            assert word in text, text
    for text in (wide, tight):
        assert len([line for line in text.splitlines() if "client-" in line]) == 2
    assert re.search(r"^client client-0\n  tokens trained +1,234,567\n", narrow, re.MULTILINE)
    assert max(map(len, narrow.splitlines())) <= 40


def test_a_runs_tables_are_whole_in_sixty_columns() -> None:
    rounds = [replace(RECORD, round=number) for number in range(3)]
    for text in (printed(rounds_table(rounds), 60), printed(clients_table(rounds), 60)):
        assert "…" not in text
        assert "345.68" in text and max(map(len, text.splitlines())) <= 60
        assert len([line for line in text.splitlines() if "345.68" in line]) == 3  # a table, no list


@pytest.mark.parametrize("seconds", [0.001, 2.0])
def test_a_bar_in_sixty_columns_shows_the_whole_round_and_what_is_left(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """seconds: of each event; a name gives way to the time left."""
    clock = itertools.count(step=seconds)
    monkeypatch.setattr("splitft.running.progress.time.monotonic", lambda: next(clock))
    file = io.StringIO()
    console = Console(width=60, file=file, force_terminal=True)
    job = FederationSettings(rounds=10, local_steps=10)
    with RunProgress(job, 2, Ledger(), console) as progress:
        for client in ("hospital-north", "hospital-south"):
            progress.on_evaluation(0)
            progress.on_round(RECORD)
            progress.on_loss(10, 9, client, 12.345)
    shown = file.getvalue()
    told = r"hospital-south  loss 12.345" if seconds < 1 else r"loss 12.345  \d+:\d\d left"
    assert re.search(r"round 10/10.{0,9} step 10/10  " + told, shown), shown
    assert "…" not in shown

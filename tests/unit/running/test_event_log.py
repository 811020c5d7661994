"""The log of a party: formats, fields, rotation, and what a console writes to it."""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from party_logs import events, read_lines
from splitft.common.notices import Notice
from splitft.errors import NetworkError, OutputError
from splitft.running import event_log
from splitft.running.event_log import EventLog
from splitft.running.headline import two_columns
from splitft.running.logged_console import LoggedConsole, log_console
from splitft.running.network import notice


def test_a_notice_is_a_text_with_an_event(tmp_path: Path) -> None:
    told = Notice("anna is lost: why", "client.lost", "warning", client="anna", seconds=0.5)
    assert told == "anna is lost: why" and json.loads(json.dumps([told])) == [str(told)]
    assert Notice.of(told) is told and Notice.of("else").event == "notice"
    shown = told.shown_as("[dim]x")
    assert (shown, shown.text, shown.event, shown.fields) == ("[dim]x", told, told.event, told.fields)


@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_line_stays_one_line(format_: event_log.Format, tmp_path: Path) -> None:
    log = EventLog(format_, None, tmp_path / "log")
    log.write(Notice("one\ntwo \x1b[31m", "a.b", "warning", client='an "odd" name', time="not the line's"))
    logging.getLogger("lib").warning("of a library")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("a warning", stacklevel=1)
    log.close()
    logging.getLogger("lib").warning("after its end")
    first, *others = read_lines(tmp_path / "log", format_)
    assert (first["level"], first["event"]) == ("WARNING", "a.b")
    assert first["text"].startswith("one two") and "\x1b" not in first["text"]
    assert 'an \\"odd\\" name' in (tmp_path / "log").read_text()
    assert [line["event"] for line in others] == ["library", "library"]


def test_a_file_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MOST_BYTES", 2000)
    log = EventLog("text", None, tmp_path / "log")
    for number in range(300):
        log.write(f"line {number}")
    log.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == event_log.KEPT + 1 and max(sizes) <= 2000
    assert read_lines(tmp_path / "log", "text")[-1]["text"] == "line 299"


def test_a_reader_that_is_gone_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    log = EventLog("text", stream, None)
    log.write("nobody reads it")
    log.close()


def test_what_is_printed_is_an_event(tmp_path: Path) -> None:
    """Markup, tables and long lines, on a display and on none."""
    log = EventLog("json", None, tmp_path / "log")
    console = LoggedConsole(log, shown=False)
    notice(console, Notice("[anna] is lost", "client.lost", client="anna"))
    console.print("[bold]many[/] words " + "of a long line " * 30)
    console.print(two_columns({"server reads": "the [text]"}))
    table = Table("round", "loss", title="Rounds")
    table.add_row("1", "2.5")
    console.print(table)
    console.print()
    log.close()
    lost, long, reads, row = read_lines(tmp_path / "log", "json")
    assert (lost["event"], lost["text"], lost["client"]) == ("client.lost", "[anna] is lost", "anna")
    assert long["event"] == "output" and long["text"].startswith("many words of a long line of a")
    assert reads["server_reads"] == "the [text]"
    assert (row["event"], row["round"], row["loss"], row["text"]) == (
        "Rounds",
        "1",
        "2.5",
        "round 1 loss 2.5",
    )


def test_a_display_shows_the_same_beside_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = EventLog("text", None, tmp_path / "log")
    notice(LoggedConsole(log, shown=True), "anna is lost")
    log.close()
    shown = capsys.readouterr().out
    notice(Console(), "anna is lost")
    assert shown == capsys.readouterr().out == "network anna is lost\n"


def test_the_error_that_ends_a_party_is_logged(tmp_path: Path) -> None:
    with pytest.raises(NetworkError), log_console(None, tmp_path / "log.txt"):
        raise NetworkError("no way")
    with pytest.raises(SystemExit) as stop, log_console("json", tmp_path / "log"):
        raise NetworkError("no way")
    assert stop.value.code == NetworkError.exit_code
    (line,) = events(read_lines(tmp_path / "log", "json"), "error")
    assert (line["text"], line["exit_code"], line["level"]) == ("no way", 6, "ERROR")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="choose another --log-file"), log_console(None, tmp_path):
        pass

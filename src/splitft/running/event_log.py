"""The log of a party of a network: one line for each event, with its time, level, name and fields."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal, TextIO

from splitft.common.files import writing
from splitft.common.notices import Notice
from splitft.common.text import plain

Format = Literal["text", "json"]
FORMATS: tuple[Format, ...] = ("text", "json")
MOST_BYTES, KEPT = 10_000_000, 5  # of a log file, from which on a new one begins; older ones that stay
LIBRARY = "library"  # event: a line of a library's own


class EventLog:
    """Writes events to a stream, to a file that rotates, or to both.

    format: `text`: TIME LEVEL EVENT TEXT [FIELD=VALUE ...]; `json`: an object for each line. Warnings and log
    lines of libraries come between the events, as `library`. What cannot be written is left out: a full disk
    stops no run. Raises OutputError where the file cannot be opened.
    """

    def __init__(self, format_: Format, stream: TextIO | None, file: Path | None) -> None:
        formatter = _Json() if format_ == "json" else _Text()
        self._handlers: list[logging.Handler] = []
        if stream is not None:
            self._handlers.append(_Stream(stream))
        if file is not None:
            with writing(file, "choose another --log-file"):
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._handlers.append(_File(file, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8"))
        self._logger = logging.Logger("splitft", logging.INFO)
        for handler in self._handlers:
            handler.setFormatter(formatter)
            self._logger.addHandler(handler)
            logging.getLogger().addHandler(handler)
        logging.captureWarnings(True)

    def write(self, text: str) -> None:
        """Write an event; a text that is none is a `notice`."""
        notice = Notice.of(text)
        level = getattr(logging, notice.level.upper())
        extra = {"event": notice.event, "fields": notice.fields}
        self._logger.log(level, "%s", notice.text, extra=extra)

    def close(self) -> None:
        """Write no more, and close the file."""
        logging.captureWarnings(False)
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            self._logger.removeHandler(handler)
            handler.close()


class _Stream(logging.StreamHandler):  # type: ignore[type-arg]  # Python 3.10's takes no parameter
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Go on: the reader of the stream may be gone."""


class _File(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Go on: there may be room again."""


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        found = _found(record)
        fields = " ".join(f"{key}={_word(value)}" for key, value in found.pop("fields").items())
        return " ".join(map(str, found.values())) + (f" [{fields}]" if fields else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        found = _found(record)
        fields = found.pop("fields")
        more = {key: value for key, value in fields.items() if key not in found}
        return json.dumps(found | more, ensure_ascii=False)


def _found(record: logging.LogRecord) -> dict[str, Any]:
    """Return time, level, event, text and fields of a record, which may be a library's."""
    at = datetime.fromtimestamp(record.created, timezone.utc)
    text = record.getMessage()
    if record.exc_info:
        text += " | " + logging.Formatter().formatException(record.exc_info)
    return {
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname,
        "event": getattr(record, "event", LIBRARY),
        "text": plain(" ".join(text.split()), len(text)),
        "fields": getattr(record, "fields", {}),
    }


def _word(value: Any) -> str:
    """Return a value as one word, or in quotes."""
    if isinstance(value, float):
        return f"{value:.6g}"
    plain = isinstance(value, str) and value and not set(value) & set(' "=[]\\')
    return str(value) if plain else json.dumps(value, ensure_ascii=False)

"""Notices: lines for people that are events of a log, too: with a name, a level and fields."""

from __future__ import annotations

from typing import Literal

Level = Literal["info", "warning", "error"]
Value = str | int | float | bool | None | list[str]


class Notice(str):
    """One line, a text like any other, that knows which event it tells.

    Attributes:
        event: The event's name, with dots between its parts: `client.lost`.
        fields: What the line tells, by name.
        text: The line without the marks of a display.
    """

    event: str
    level: Level
    fields: dict[str, Value]
    text: str

    def __new__(cls, text: str, event: str = "notice", level: Level = "info", **fields: Value) -> Notice:
        made = super().__new__(cls, text)
        made.event, made.level, made.fields, made.text = event, level, fields, str(text)
        return made

    @classmethod
    def of(cls, text: str) -> Notice:
        """Return a text as a notice: itself, where it is one."""
        return text if isinstance(text, Notice) else cls(text)

    def shown_as(self, text: str) -> Notice:
        """Return the same event with another text on a display."""
        made = Notice(text, self.event, self.level, **self.fields)
        made.text = self.text
        return made

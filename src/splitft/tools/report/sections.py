"""Panels of the page, one chart each, and sections of panels with a title and a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """One chart; caption: what it shows where a section has several; style: the variant's number."""

    svg: Markup | None
    caption: str = ""
    style: int | None = None


@dataclass(frozen=True)
class Section:
    """Charts of one sort. legend: (name, #colour) of what bars consist of."""

    title: str
    panels: list[Panel]
    note: str
    legend: Sequence[tuple[str, str]]


def make_section(
    title: str, panels: Sequence[Panel], note: str, legend: Sequence[tuple[str, str]] = ()
) -> Section | None:
    """Return the section of those panels that have a chart, None without any."""
    drawn = [panel for panel in panels if panel.svg]
    return Section(title, drawn, note, legend) if drawn else None

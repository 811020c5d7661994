"""Panels of the page, one chart each, and sections of panels with a title and a note."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """One chart; caption: what it shows where a section has several; style: the variant's number."""

    svg: Markup
    caption: str = ""
    style: int | None = None


@dataclass(frozen=True)
class Section:
    """Charts of one sort. legend: (name, CSS class or #colour) of what bars and maps consist of."""

    title: str
    panels: list[Panel]
    note: str = ""
    legend: list[tuple[str, str]] = field(default_factory=list)

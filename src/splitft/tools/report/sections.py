"""Panels of the page, one chart each, and sections of panels with a title and a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitft.tools.report.charts.compose import Composed, Lines, Pieces, in_rows
from splitft.tools.report.charts.svg import Chart
from splitft.tools.report.downloads import Download, png_download, slug, svg_download


@dataclass(frozen=True)
class Panel:
    """One chart; caption: what it shows where a section has several; style: the variant's number."""

    chart: Chart | None
    caption: str = ""
    style: int | None = None


@dataclass(frozen=True)
class Section:
    """Charts of one sort. legend: (name, #colour) of pieces of bars. lines: (variant, number) of lines."""

    title: str
    panels: list[Panel]
    note: str
    legend: Pieces
    lines: Lines

    def charts(self) -> list[tuple[str, Chart]]:
        """Return captions and charts."""
        return [(panel.caption, panel.chart) for panel in self.panels if panel.chart]

    def figure(self) -> Composed:
        """Return all of its charts as one figure, with its legend."""
        return Composed(in_rows(self.charts()), self.legend, self.lines)

    def downloads(self) -> list[Download]:
        """Return its figure as SVG and as PNG."""
        figure = self.figure()
        name = slug(self.title)
        return [svg_download(name, figure.svg(self.title)), png_download(name, figure.png())]


def make_section(
    title: str, panels: Sequence[Panel], note: str, legend: Pieces = (), lines: Lines = ()
) -> Section | None:
    """Return the section of those panels that have a chart, None without any."""
    drawn = [panel for panel in panels if panel.chart]
    return Section(title, drawn, note, legend, lines) if drawn else None

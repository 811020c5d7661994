"""What the page lets a reader save: tables as CSV and LaTeX, figures as SVG and PNG, all inside the page."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Download:
    """A file in a link. kind: as the link shows it."""

    kind: str
    name: str
    link: str


def csv_download(name: str, text: str) -> Download:
    """Return the link of a table; its mark of UTF-8 is for spreadsheets."""
    return _download("CSV", f"{name}.csv", "text/csv", ("\ufeff" + text).encode())


def latex_download(name: str, text: str) -> Download:
    """Return the link of a table in LaTeX."""
    return _download("LaTeX", f"{name}.tex", "application/x-tex", text.encode())


def svg_download(name: str, text: str) -> Download:
    """Return the link of a figure that stays sharp at any size."""
    return _download("SVG", f"{name}.svg", "image/svg+xml", text.encode())


def png_download(name: str, content: bytes) -> Download:
    """Return the link of a figure as pixels."""
    return _download("PNG", f"{name}.png", "image/png", content)


def slug(title: str) -> str:
    """Return a file's name for a title: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "table"


def _download(kind: str, name: str, media: str, content: bytes) -> Download:
    return Download(kind, name, f"data:{media};base64,{base64.b64encode(content).decode()}")

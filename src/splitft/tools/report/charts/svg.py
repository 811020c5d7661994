"""SVG elements as escaped text, and how much room a text takes."""

from __future__ import annotations

import unicodedata

from markupsafe import Markup, escape

WIDTH = 360.0  # units of every chart; about the pixels of a phone's column
FONT = 13.0
_NARROW = frozenset("iljftrI.,:;|!'()[]/ ")
_BROAD = frozenset("mwMW@%—…±≤≥")


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return <tag attributes>children</tag>; everything is escaped that is not Markup.

    Attributes: underscores become hyphens, one at the end falls off (class_), None leaves one out, numbers
    are rounded to a hundredth.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _value(value))
        for name, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup(f"<{tag}{written}>{inner}</{tag}>") if inner else Markup(f"<{tag}{written}/>")


def chart(height: float, description: str, *children: object) -> Markup:
    """Return the <svg> of a chart; the description is for those who cannot see it."""
    return element(
        "svg",
        *children,
        class_="chart",
        viewBox=f"0 0 {WIDTH:g} {height:.0f}",
        role="img",
        aria_label=description,
    )


def text(x: float, y: float, content: str, anchor: str = "start", class_: str | None = None) -> Markup:
    """Return a <text>; y is its base line."""
    return element("text", content, x=x, y=y, text_anchor=anchor, class_=class_)


def fitted(
    x: float, y: float, content: str, room: float, anchor: str = "start", class_: str | None = None
) -> Markup:
    """Return a <text> that takes `room` units at most; where it is cut, the whole shows on hovering."""
    shown = shorten(content, room)
    if shown == content:
        return text(x, y, content, anchor, class_)
    return element("text", shown, element("title", content), x=x, y=y, text_anchor=anchor, class_=class_)


def path(places: list[tuple[float, float]], closed: bool = False, **attributes: object) -> Markup:
    """Return a <path> of straight lines through the places."""
    line = "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return element("path", d=f"M{line}{'Z' if closed else ''}", **attributes)


def shorten(content: str, room: float) -> str:
    """Return the text, with an ellipsis where it takes more than `room` units."""
    if text_width(content) <= room:
        return content
    kept = content
    while kept and text_width(kept + "…") > room:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def text_width(content: str) -> float:
    """Return the room that a text takes, in units; rather too much than too little, fonts differ."""
    return sum(map(_width, content)) * FONT


def _width(character: str) -> float:
    if character in _NARROW:
        return 0.42
    if character in _BROAD or unicodedata.east_asian_width(character) in "WF":
        return 1.02
    if unicodedata.combining(character):
        return 0.0
    return 0.76 if character.isupper() else 0.65


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)

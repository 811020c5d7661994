"""Colours that people with colour-blindness tell apart; the page's style sheet defines those of the classes.

Variants: Okabe and Ito (2008). Pieces of bars: Paul Tol's light scheme. Clients: Tol's muted scheme.
Ordered things (length classes, cuts): viridis, light to dark.
"""

from __future__ import annotations

from collections.abc import Sequence

_VIRIDIS = ("#fde725", "#9fda3a", "#4ac16d", "#1fa187", "#277f8e", "#365c8d", "#46327e", "#440154")


def ordered(count: int) -> list[str]:
    """Return `count` colours from light to dark, as #rrggbb; the two ends of the scheme are left out."""
    places = [0.06 + 0.86 * i / max(count - 1, 1) for i in range(count)]
    return [_mix(place) for place in places]


def piece_classes(count: int) -> list[str]:
    """Return the CSS classes of the pieces of a bar; the ninth and later are grey."""
    return [f"p{min(i, 8)}" for i in range(count)]


def _mix(place: float) -> str:
    position = place * (len(_VIRIDIS) - 1)
    low = min(int(position), len(_VIRIDIS) - 2)
    share = position - low
    channels = zip(_channels(_VIRIDIS[low]), _channels(_VIRIDIS[low + 1]), strict=True)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in channels)


def _channels(colour: str) -> Sequence[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]

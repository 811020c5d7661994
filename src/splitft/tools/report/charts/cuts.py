"""Cuts over time: a step line a client, or, for many clients, a map with one row a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from splitft.tools.report.charts.axes import LINE, TOP, Range, bottom_axis, frame, row_numbers
from splitft.tools.report.charts.bars import evenly
from splitft.tools.report.charts.svg import FONT, WIDTH, chart, element, fitted, path, text_width

MOST_LINES = 9
MOST_ROWS = 60
APART = 2.4  # units between lines that would cover each other; less where blocks lie close together
Steps = Mapping[str, Sequence[tuple[int, int]]]


def cuts_chart(cuts: Steps, last_round: int, highest: int, shade: Mapping[int, str]) -> Markup | None:
    """Return the chart of {client: [(round, cut)]}, None where there is nothing to draw.

    highest: the largest cut of all charts that are compared. shade: a #colour for every cut, for the map.
    """
    if not cuts:
        return None
    if len(cuts) > MOST_LINES:
        return _map(cuts, last_round, shade)
    return _lines(cuts, last_round, highest)


def _lines(cuts: Steps, last_round: int, highest: int) -> Markup:
    names = list(cuts)
    room = min(max(map(text_width, names)), 0.46 * WIDTH)
    height = max(150.0, 17.0 * len(names))
    first = min(steps[0][0] for steps in cuts.values())
    rounds = Range("round (number)", first - 0.5, last_round + 0.5, whole=True)
    blocks = Range("cut (blocks on the client)", 0.5, highest + 0.5, whole=True)
    box = frame(rounds, blocks, height, lowest=1, right=WIDTH - room - 16)
    x, y, marks = box.x, box.y, [box.marks]
    apart = min(APART, 0.8 * abs(y(2.0) - y(1.0)) / max(len(names) - 1, 1))
    ends = {}
    for number, (name, steps) in enumerate(cuts.items()):
        shift = (number - (len(names) - 1) / 2) * apart
        changes = _changes(steps)
        places: list[tuple[float, float]] = []
        for (round_, cut), until in zip(changes, _ends(changes, last_round), strict=True):
            places += [(x(round_ - 0.5), y(cut) + shift), (x(until - 0.5), y(cut) + shift)]
        about = element("title", f"{name}: {', '.join(f'round {r}: {c}' for r, c in changes)}")
        marks.append(element("g", about, path(places, class_=f"step c{number}")))
        ends[name] = (places[-1][1], number)
    marks.append(_names(ends, x.end, room, TOP, TOP + height))
    return chart(box.height, f"cuts of {', '.join(names)} by round", *marks)


def _names(
    ends: Mapping[str, tuple[float, int]], right: float, room: float, top: float, bottom: float
) -> Markup:
    """Names at the ends of the lines, moved apart where they would touch."""
    order = sorted(ends.items(), key=lambda item: item[1])
    gap = 1.25 * FONT
    places: list[float] = []
    for _, (wanted, _) in order:
        places.append(max(wanted, places[-1] + gap if places else top + 4))
    limit = bottom - 2
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    marks = []
    for (name, (wanted, number)), place in zip(order, places, strict=True):
        marks.append(path([(right, wanted), (right + 9, place)], class_=f"leader c{number}"))
        marks.append(fitted(right + 13, place + 0.36 * FONT, name, room))
    return Markup("").join(marks)


def _map(cuts: Steps, last_round: int, shade: Mapping[int, str]) -> Markup:
    names = list(cuts)
    kept = evenly(names, MOST_ROWS)
    row = max(4.0, min(12.0, 260 / len(kept)))
    top = LINE + 6
    bottom = top + row * len(kept) + 2
    left = text_width(str(len(kept))) + 8
    first = min(steps[0][0] for steps in cuts.values())
    x, below = bottom_axis(Range("round (number)", first - 0.5, last_round + 0.5, whole=True), left, bottom)
    which = "in their order" if kept is names else f"{len(kept)} of {len(names)}, at even distances"
    marks = [fitted(0, FONT, f"client (number, {which})", WIDTH, class_="axis"), below]
    marks.append(row_numbers(len(kept), row, top, left))
    for number, name in enumerate(kept):
        changes = _changes(cuts[name])
        for (round_, cut), until in zip(changes, _ends(changes, last_round), strict=True):
            about = element("title", f"{name}: cut {cut} from round {round_}")
            start, end = x(round_ - 0.5), x(until - 0.5)
            box = {"x": start, "y": top + number * row, "width": end - start, "height": row - 0.6}
            marks.append(element("rect", about, **box, fill=shade[cut]))
    return chart(bottom + 2 * LINE + 8, f"cuts of {len(names)} clients by round", *marks)


def _changes(steps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first round, and those in which the cut is another than before."""
    return [step for i, step in enumerate(steps) if i == 0 or step[1] != steps[i - 1][1]]


def _ends(changes: Sequence[tuple[int, int]], last_round: int) -> list[int]:
    """For each cut the round in which it does not hold any more."""
    return [*(round_ for round_, _ in changes[1:]), last_round + 1]

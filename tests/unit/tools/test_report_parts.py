"""The report's pure parts: labels, spread, crossings, ticks, texts, units."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitft.tools.report.charts.axes import Scale, ticks
from splitft.tools.report.charts.svg import FONT, element, shorten, text_width
from splitft.tools.report.groups import spread
from splitft.tools.report.labels import make_labels
from splitft.tools.report.series import crossing
from splitft.tools.report.units import byte_unit, figure, mean_and_sd, time_unit


def test_labels_name_what_differs_and_matters() -> None:
    base = {"method": "splitft", "cut_policy.method": "fixed", "cuts": 2, "cut_policy.gamma": 0.5}
    jobs = [
        base | {"method": "same_split"},
        base | {"cut_policy.method": "makespan", "cut_policy.gamma": 0.1},
        base | {"cut_policy.method": "splitft", "cut_policy.gamma": 0.1},
        base | {"cut_policy.method": "splitft", "cut_policy.gamma": 2.0},
    ]
    keys = ["method", "cut_policy.method", "cut_policy.gamma"]
    assert make_labels(jobs, keys) == [
        "same_split",
        "makespan",
        "splitft, cut_policy.gamma 0.1",
        "splitft, cut_policy.gamma 2",
    ]
    assert make_labels([base, base | {"cuts": 4}], ["cuts"]) == ["cuts 2", "cuts 4"]
    idle = [base | {"method": "fed_lora", "cuts": cut} for cut in (2, 4)]
    assert make_labels(idle, ["cuts"]) == ["fed_lora, cuts 2", "fed_lora, cuts 4"], (
        "labels differ in any case"
    )


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "method": st.sampled_from(["splitft", "same_split", "fed_lora"]),
                "cut_policy.method": st.sampled_from(["fixed", "makespan"]),
                "cut_policy.gamma": st.sampled_from([0.0, 0.5]),
                "a_key_with_a_rather_long_name_for_a_label": st.integers(0, 3),
                "another_key_with_a_rather_long_name": st.integers(0, 3),
            }
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda job: tuple(sorted(job.items())),
    )
)
def test_labels_of_different_jobs_differ(jobs: list[dict[str, Any]]) -> None:
    keys = [key for key in jobs[0] if any(job[key] != jobs[0][key] for job in jobs)]
    labels = make_labels(jobs, keys)
    assert len(set(labels)) == len(jobs) and all(labels)


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=8))
def test_spread_is_that_of_the_sample(values: list[float]) -> None:
    found = spread(values)
    assert found is not None and found.count == len(values)
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    assert (found.sd is None) == (len(values) == 1)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 100)), min_size=2, max_size=9), st.floats(1, 100))
def test_the_crossing_lies_on_the_line(pairs: list[tuple[float, float]], target: float) -> None:
    xs = sorted(x for x, _ in pairs)
    ys = [y for _, y in pairs]
    at = crossing(xs, ys, target)
    first = next((i for i, y in enumerate(ys) if y <= target), None)
    if first is None:
        assert at is None
    elif first == 0:
        assert at == xs[0]
    else:
        assert at is not None and xs[first - 1] - 1e-9 <= at <= xs[first] + 1e-9
        share = 0.0 if xs[first] == xs[first - 1] else (at - xs[first - 1]) / (xs[first] - xs[first - 1])
        if xs[first] - xs[first - 1] > 1e-6:
            reached = ys[first - 1] + share * (ys[first] - ys[first - 1])
            assert reached == pytest.approx(target, rel=1e-6)


@given(
    st.floats(1e-9, 1e9),
    st.floats(1.0, 1e6),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_ticks_never_touch(low: float, factor: float, log: bool, upright: bool, whole: bool) -> None:
    ends = (220.0, 30.0) if upright else (60.0, 356.0)
    scale = Scale(low, low * factor, *ends, log=log, whole=whole)
    found = sorted((scale(value), label) for value, label in ticks(scale))
    labels = [label for _, label in found]
    assert len(set(labels)) == len(labels)
    for (a, first), (b, second) in pairwise(found):
        room = FONT if upright else (text_width(first) + text_width(second)) / 2
        assert b - a >= room
    assert all(min(ends) - 1e-6 <= place <= max(ends) + 1e-6 for place, _ in found)


@given(st.text(max_size=80), st.floats(20, 400))
def test_shortened_text_fits(text: str, room: float) -> None:
    assert text_width(shorten(text, room)) <= room


@given(st.text(), st.text())
def test_elements_are_escaped(name: str, content: str) -> None:
    made = str(element("text", content, aria_label=name))
    inner = made.removeprefix('<text aria-label="')
    assert "<" not in inner.removesuffix("</text>").removesuffix("/>")
    assert inner.split('"', 1)[0].count(">") == 0


def test_units_fit_the_largest_value() -> None:
    assert (
        byte_unit(5e6) == ("MB", 1e6) and byte_unit(2e10) == ("GB", 1e9) and byte_unit(3.0) == ("bytes", 1.0)
    )
    assert time_unit(30.0) == ("s", 1.0) and time_unit(1200.0)[0] == "min" and time_unit(1e5)[0] == "h"
    assert figure(0.0) == "0" and figure(1234567.0) == "1,234,567" and figure(0.012344) == "0.01234"
    assert mean_and_sd(12.345, 0.1) == "12.35 ± 0.10" and mean_and_sd(0.0, 0.0) == "0"

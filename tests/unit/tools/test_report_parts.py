"""The report's pure parts: labels, spread, crossings, ticks, texts, units."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.common.figures import style, text_width
from splitft.tools.report.charts.rows import Bar, bar_chart
from splitft.tools.report.charts.svg import FONT, Chart, set_ticks, shorten
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
        "splitft, gamma 0.1",
        "splitft, gamma 2",
    ]
    assert make_labels([base, base | {"cuts": 4}], ["cuts"]) == ["cuts 2", "cuts 4"]
    idle = [base | {"method": "fed_lora", "cuts": cut} for cut in (2, 4)]
    assert make_labels(idle, ["cuts"]) == ["fed_lora, cuts 2", "fed_lora, cuts 4"], (
        "labels differ in any case"
    )


def test_algorithms_are_named_by_their_values_alone() -> None:
    base = {"method": "splitft", "server_optimizer": "none", "objective": "plain", "proximal_mu": 0.1}
    jobs = [
        base,
        base | {"server_optimizer": "fedyogi", "server_learning_rate": 0.1},
        base | {"server_optimizer": "fedyogi", "objective": "fedprox", "proximal_mu": 0.5},
    ]
    keys = ["server_optimizer", "objective"]
    assert make_labels(jobs, keys) == ["fedavg", "fedyogi", "fedyogi and fedprox"]
    longer = make_labels(jobs[:2], [*keys, "server_learning_rate", "proximal_mu"])
    assert longer == ["fedavg", "fedyogi"], "a key that one job alone reads tells nothing apart"
    old = {"method": "splitft"}  # a run of before there were these keys
    assert make_labels([old, base | {"objective": "fedprox"}], ["objective"]) == ["fedavg", "fedprox"]


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


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e9), st.floats(1.0, 1e6), st.booleans(), st.booleans(), st.booleans())
def test_ticks_never_touch(low: float, factor: float, log: bool, upright: bool, whole: bool) -> None:
    with style(FONT):
        values = [low, low * factor]
        if whole:  # numbers of things
            values = [round(low), round(low * factor) + 1]

        def paint(axes: Any) -> None:
            axes.plot(*([[0, 1], values] if upright else [values, [0, 1]]))
            set_ticks(axes.yaxis if upright else axes.xaxis, whole, log and factor >= 5 and not whole)

        figure = Chart("x (unit)", "y (unit)", 190, "ticks", paint).figure
        axis = figure.axes[0].yaxis if upright else figure.axes[0].xaxis
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        ticks = [
            label
            for label in axis.get_ticklabels()
            if low - slack <= label.get_position()[upright] <= high + slack
        ]
        boxes = [label.get_window_extent() for label in ticks]
    texts = [label.get_text() for label in ticks]
    assert texts and len(set(texts)) == len(texts)
    for one, other in pairwise(sorted(boxes, key=lambda box: (box.x0, box.y0))):
        assert not one.overlaps(other), texts
    assert all(box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 for box in boxes)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.floats(20, 400))
def test_shortened_text_fits(text: str, room: float) -> None:
    assert text_width(shorten(text, room), FONT) <= room


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60), st.text(max_size=20))
def test_charts_hold_any_text_as_text(name: str, kind: str) -> None:
    with style(FONT):
        chart = bar_chart([Bar(name, (1.0,), "1 row")], [(kind, "#77aadd")], "x (unit)", "y (unit)")
        assert chart is not None
        made = str(chart.svg())
    drawn = ElementTree.fromstring(made)
    assert {element.tag for element in drawn.iter()} <= {"svg", "g", "path", "text", "title"}
    assert not drawn.findall(".//*[@style]") and "http" not in str(made).replace(name, "").replace(kind, "")


def test_a_name_in_dollars_is_no_formula_and_a_cut_one_shows_on_hovering() -> None:
    with style(FONT):
        chart = bar_chart([Bar("$x^2$", (1.0,)), Bar("y" * 90, (1.0,))], [("k", "#77aadd")], "x", "y")
        assert chart is not None
        made = str(chart.svg())
    assert ">$x^2$</text>" in made and f"…<title>{'y' * 90}</title></text>" in made


def test_units_fit_the_largest_value() -> None:
    assert (
        byte_unit(5e6) == ("MB", 1e6) and byte_unit(2e10) == ("GB", 1e9) and byte_unit(3.0) == ("bytes", 1.0)
    )
    assert time_unit(30.0) == ("s", 1.0) and time_unit(1200.0)[0] == "min" and time_unit(1e5)[0] == "h"
    assert figure(0.0) == "0" and figure(1234567.0) == "1,234,567" and figure(0.012344) == "0.01234"
    assert mean_and_sd(12.345, 0.1) == "12.35 ± 0.10" and mean_and_sd(0.0, 0.0) == "0"

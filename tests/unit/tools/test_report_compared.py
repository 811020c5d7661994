"""What the report compares, names, colours and saves: pure parts."""

from __future__ import annotations

import csv
import io
import re
import warnings
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.common.figures import DASHES, PIECES, VARIANTS, dashes_number, style
from splitft.errors import JobError, OutputError
from splitft.tools.report.charts.compose import Composed, in_rows, wrapped
from splitft.tools.report.charts.curves import Curve, curve_chart
from splitft.tools.report.charts.dots import decides, interval_chart, reach
from splitft.tools.report.charts.svg import FONT
from splitft.tools.report.compared import equal_variants, reference_number
from splitft.tools.report.groups import group_runs
from splitft.tools.report.paired import paired, ratios, signed
from splitft.tools.report.paper import caption_text, check_paper, paper_table
from splitft.tools.report.runs import RunFolder
from splitft.tools.report.saved import csv_text, latex, latex_text
from splitft.tools.report.table import verdict_columns
from splitft.tools.report.verdict import report_data, sentences


def run_of(folder: str, ends: list[float], seed: int = 1, **job: Any) -> RunFolder:
    """A run with these perplexities, one a round."""
    values = {
        "method": "splitft",
        "cut_policy.method": "fixed",
        "cuts": 1,
        "seed": seed,
        "rounds": len(ends) - 1,
    }
    rounds = [
        {"round": n, "perplexity": end, "accuracy": 1 / end, "clients": {}} for n, end in enumerate(ends)
    ]
    return RunFolder(Path(folder), {**values, **job}, rounds)


def two(first: list[float], second: list[float], **job: Any) -> dict[str, Any]:
    """The verdict on cuts 1 and 2 with a seed for each of these ends."""
    runs = [
        run_of(f"cut{cut}-seed{seed}", [100.0, end], seed, cuts=cut, **job)
        for cut, ends in ((1, first), (2, second))
        for seed, end in enumerate(ends)
    ]
    return report_data(group_runs(runs))


def bold(data: dict[str, Any], heading: str) -> list[int]:
    (column,) = (c for c in verdict_columns(data) if c.heading == heading and c.part == "Reached")
    return list(column.best)


def test_bold_and_words_say_only_what_the_seeds_decide() -> None:
    decided = two(
        [40.0, 50.0, 60.0], [38.0, 47.6, 57.0]
    )  # 5 % better with every seed, though seeds differ by 50 %
    assert bold(decided, "perplexity") == [1] and bold(decided, "accuracy") == [1]
    assert "decides nothing" not in " ".join(sentences(decided))
    assert "−4.9 %, 95 % interval" in sentences(decided)[0]
    undecided = two([40.0, 50.0, 60.0], [38.0, 51.0, 58.0])
    assert bold(undecided, "perplexity") == [] and "decides nothing" in sentences(undecided)[0]
    one = two([40.0], [30.0])
    assert bold(one, "perplexity") == [] and "chance may explain it" in sentences(one)[0]


def test_what_is_the_same_is_said_and_only_to_the_last_digit() -> None:
    same = two([40.0, 50.0], [40.0, 50.0])
    assert same["equal"] == [["cuts 1", "cuts 2"]]
    assert sentences(same) == [
        "cuts 1 and cuts 2 are the same to the last digit, at every evaluation and with every seed: "
        "perplexity and accuracy are one curve."
    ]
    nearly = two([40.0, 50.0], [40.0, 50.0 + 1e-12])
    assert nearly["equal"] == [] and bold(nearly, "perplexity") == []
    runs = [run_of("a", [9.0, 8.0, 5.0]), run_of("b", [9.0, 7.0, 5.0], cuts=2)]
    assert equal_variants(group_runs(runs)) == [], "the same end on another way is not the same"


def test_the_reference_is_the_one_asked_for_or_one_whose_cuts_do_not_move() -> None:
    moving = {"cut_policy.method": "makespan"}
    runs = [
        run_of("a", [9.0, 5.0], **moving),
        run_of("b", [9.0, 6.0]),
        run_of("c", [9.0, 4.0], method="fed_lora"),
    ]
    variants = group_runs(runs)
    labels = [variant.label for variant in variants]
    assert labels[reference_number(variants)] == "fixed cuts"
    assert labels[reference_number(variants, "makespan")] == "makespan"
    data = report_data(variants, "makespan")
    (own,) = (row for row in data["variants"] if row["label"] == "makespan")
    assert own["against"] == {} and data["reference"] == "makespan"
    with pytest.raises(JobError, match=r"'absent'.*--reference one of: fed_lora; fixed cuts; makespan"):
        report_data(variants, "absent")


def test_names_come_from_run_name_or_from_folders_where_keys_make_long_ones() -> None:
    long = {"learning_rate": 1e-3, "lora_alpha": 32, "max_length": 64}
    runs = [run_of("x/first-seed1", [9.0, 5.0], **long), run_of("x/second-seed1", [9.0, 4.0], lora_r=8)]
    assert sorted(variant.label for variant in group_runs(runs)) == ["first", "second"]
    hashed = [replace(run, path=Path(f"x/splitft-seed1-012345678{n}")) for n, run in enumerate(runs)]
    assert [variant.label for variant in group_runs(hashed)] == ["lora_r 8", "lora_r default"]
    named = [
        replace(run, job={**run.job, "run_name": f"name {n}-seed{seed}", "seed": seed})
        for n, run in enumerate(runs)
        for seed in (1, 2)
    ]
    assert sorted(variant.label for variant in group_runs(named)) == ["name 0", "name 1"]
    short = [run_of("x/first", [9.0, 5.0]), run_of("x/second", [9.0, 4.0], cuts=2)]
    assert [variant.label for variant in group_runs(short)] == ["cuts 1", "cuts 2"]


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=30))
def test_the_interval_is_around_the_mean_and_decides_where_it_excludes_zero(values: list[float]) -> None:
    found = paired(values)
    assert found is not None and found.low is not None and found.high is not None
    assert found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high
    assert (found.side == 0) == (found.low <= 1e-4 and found.high >= -1e-4)
    assert not decides(found) or found.low * found.high > 0
    low, high = reach([found])
    assert low < min(0.0, *values, found.low) and high > max(0.0, *values, found.high)


def test_ratios_pair_by_seed() -> None:
    assert ratios({1: 2.0, 2: 3.0, 3: None}, {1: 4.0, 3: 1.0, 4: 9.0}) == [0.5]
    assert ratios({1: 0.0}, {1: 0.0}) == [1.0] and ratios({1: 1.0}, {1: 0.0}) == []
    assert paired([]) is None and paired([1.0]).low is None  # type: ignore[union-attr]
    shown = ["0", "−0.12", "+12", "+1,234", "−1.0e-07"]
    assert [signed(value) for value in (0.0, -0.1234, 12.34, 1234.0, -1e-7)] == shown


# Colours

MACHADO = {  # and others (2009), severity 1: what the colour-blind see, in linear RGB
    "protan": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deutan": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritan": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9309, 0.1476], [0.0047, 0.6914, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, sight: str = "") -> Any:
    """A colour in CIELAB, as who has this sight sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if sight:
        linear = np.clip(np.array(MACHADO[sight]) @ linear, 0, 1)
    xyz = TO_XYZ @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", ["", *MACHADO])
def test_the_colour_blind_tell_variants_apart(sight: str) -> None:
    for one, other in combinations(VARIANTS, 2):
        assert np.linalg.norm(lab(one, sight) - lab(other, sight)) > 10, (one, other)


def test_lines_and_pieces_differ_in_grey() -> None:
    for one, other in combinations(range(len(VARIANTS)), 2):
        assert DASHES[dashes_number(one)] != DASHES[dashes_number(other)]
    looks = {(number % len(VARIANTS), dashes_number(number)) for number in range(40)}
    assert len(looks) == 40, "no line looks as another does"
    for left, right in pairwise(PIECES):
        assert abs(lab(left)[0] - lab(right)[0]) > 8, (left, right)


# Files


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_csv_holds_any_text_and_no_formula(cells: list[str]) -> None:
    (_, row) = csv.reader(io.StringIO(csv_text(["a"] * len(cells), [cells]), newline=""))
    for cell, read in zip(cells, row, strict=True):
        assert read in (cell, f"'{cell}")
        number = re.fullmatch(r"[-+]?[\d.,]*\d(e[-+]?\d+)?", read)
        assert not read.startswith(("=", "+", "-", "@", "\t")) or number
    (_, row) = csv.reader(io.StringIO(csv_text(["a", "b", "c"], [["=1+1", "-0.5", None]])))
    assert row == ["'=1+1", "-0.5", ""]


def test_latex_is_a_table_and_nothing_in_it_a_command() -> None:
    text = latex_text(
        ["variant", "perplexity\nper token"], [[r"a_b \input{x} 5 %", "1.0 ± 0.1"], ["c & d", "2.0"]],
        bold={(0, 1)}, comment="one\ntwo", caption="A_caption", label="tab:x",
    )  # fmt: skip
    assert text.splitlines()[:3] == ["% one", "% two", r"\begin{table}[t]"]
    assert r"\toprule" in text and r"\bottomrule" in text and r"\textbf{1.0 $\pm$ 0.1}" in text
    assert r"a\_b \textbackslash{}input\{x\} 5 \%" in text and r"c \& d" in text and " & (per token)" in text
    assert r"\caption{A\_caption}\label{tab:x}" in text
    assert latex("$") == r"\$" and latex("a\nb") == "a b"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=9), st.text(max_size=300))
def test_no_legend_and_no_note_is_wider_than_its_figure(names: list[str], note: str) -> None:
    curve = Curve("a", 0, (0.0, 1.0), (2.0, 1.0), (2.0, 1.0), (2.0, 1.0))
    with style(FONT):
        chart = curve_chart([curve], "round", "number", "y", "unit", whole_x=True)
        assert chart is not None
        lines = [(name, number) for number, name in enumerate(names)]
        figure = Composed(in_rows([("", chart)]), lines=lines, notes=[note], heading=note)._head()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scripts that the font lacks
            figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.texts if text.get_text().strip()]
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
        assert all(box.y0 >= 0 and box.y1 <= figure.bbox.height for box in boxes)
        for one, other in combinations(boxes, 2):
            assert not one.padded(-1).overlaps(other.padded(-1))
    assert " ".join(wrapped("one two three", 60)) == "one two three"


def test_an_undecided_mean_is_a_ring_and_shares_its_axis() -> None:
    decided, undecided = paired([1.0, 1.1, 1.2]), paired([-1.0, 0.2, 1.0])
    assert decided is not None and undecided is not None
    with style(FONT):
        charts = [interval_chart([("a", 0, own)], "x", "%", "y", (-5.0, 5.0)) for own in (decided, undecided)]
        drawn = [str(chart.svg()) for chart in charts if chart]
        ends = {tuple(chart.figure.axes[0].get_xlim()) for chart in charts if chart}
    assert ends == {(-5.0, 5.0)}
    assert ["var(--card)" in one for one in drawn] == [False, True]
    assert interval_chart([], "x", "%", "y") is None


def test_the_table_of_a_paper_has_intervals_seeds_and_bold_where_it_is_decided() -> None:
    headings, rows, bold_cells = paper_table(two([40.0, 50.0, 60.0], [38.0, 47.6, 57.0]))
    assert headings[:5] == ["variant", "seeds", "perplexity ↓\nper token", "Δ perplexity\n%", "accuracy ↑\n%"]
    # The mean of 40, 50 and 60 with t(2) = 4.303 times 10 / sqrt(3); the ratios 0.95, 0.952, 0.95 less 1.
    assert rows[0][:4] == ["cuts 1", "3", "50.00 ± 24.84", "reference"]
    assert rows[1][:4] == ["cuts 2", "3", "47.53 ± 23.60", "−4.9 [−5.2, −4.6]"]
    assert bold_cells == {(1, 2), (1, 4)}
    text = caption_text(two([40.0, 50.0], [38.0, 51.0]))
    assert "n = 2 seeds" in text and "difference to cuts 1, paired by seed" in text
    _, rows, bold_cells = paper_table(two([40.0], [30.0]))
    assert rows[1][2:4] == ["30.00", "−25"] and not bold_cells
    assert "no difference is decided" in caption_text(two([40.0], [30.0]))


def test_a_folder_of_somebody_elses_is_never_written_into(tmp_path: Path) -> None:
    folder = tmp_path / "report-paper"
    check_paper(folder)
    folder.mkdir()
    for there in (None, "mine"):
        if there:
            (folder / "table.tex").write_text(there)
        with pytest.raises(OutputError, match="report-paper is there already"):
            check_paper(folder)
    (folder / "table.tex").write_text("% splitft report --paper\n")
    check_paper(folder)

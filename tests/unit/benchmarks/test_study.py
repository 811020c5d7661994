"""Promises of the study: what it compares, what it says of noise, and what stands on its page."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from repository import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import study
from benchlib.pictures import draw_quality, draw_scale
from studylib.claims import (
    CLAIMS,
    FAILS,
    HOLDS,
    NOISE,
    UNMEASURED,
    Claim,
    decide,
    judge,
    shown,
    signed_percent,
)
from studylib.pages import group_table, page, verdicts_of
from studylib.plots import plot_sweep
from studylib.published import published_section
from studylib.results import Paired, add_targets, paired, relative_differences
from studylib.sweeps import COMPUTE, LINK, SWEEPS, devices

from splitft.devices.profile import client_devices
from splitft.job import load_job
from splitft.tools.report.charts.compose import Composed

SMALL = st.floats(-0.5, 0.5)
KINDS = ("lower", "higher", "at most", "equal", "times")


def figures(perplexity: float, seconds: float = 10.0, **more: Any) -> dict[str, Any]:
    """A run that goes from perplexity 100 to this one on a straight line, in 4 rounds."""
    curve = [[r, 100 * r, seconds * r / 4, 100 + (perplexity - 100) * r / 4] for r in range(4)]
    curve.append([4, 400, seconds, perplexity])
    return {
        "perplexity": perplexity, "accuracy": 0.3, "paper_accuracy": None, "bytes": 400,
        "virtual_seconds": seconds, "transfer_share": None, "final_cuts": {},
        "curve": curve, **more,
    }  # fmt: skip


# Sweeps


def test_every_claim_compares_arms_that_are_run() -> None:
    arms = {(name, group, arm) for name, sweep in SWEEPS.items() for group, arm, _ in sweep.arms()}
    assert {(c.sweep, *place) for c in CLAIMS for place in (c.arm, c.against)} <= arms
    assert {c.sweep for c in CLAIMS} == set(SWEEPS)


def test_every_job_of_the_study_is_valid_and_equal_jobs_are_one_run() -> None:
    planned = study.plan_study("fixed-cuts", [], list(SWEEPS), 2)
    runs = {
        (name, *place): [v.run for v in arm] for name, arms in planned.items() for place, arm in arms.items()
    }
    assert all(len(set(runs[place])) == max(2, SWEEPS[place[0]].seeds) for place in runs)
    same = [("r-cut", "all", "r_cut 8"), ("r-cut-side", "all", "side both"), ("cut", "all", "cut 2")]
    assert len({tuple(runs[place]) for place in same}) == 1
    long = [(f"long-{name}", *place) for name, *place in same] + [("long-alpha", "alpha 0.1", "same cut")]
    assert len({tuple(runs[place]) for place in long}) == 1 and runs[long[0]] != runs[same[0]]
    different = [of_arm for place, of_arm in runs.items() if place not in same + long]
    assert len({tuple(of_arm) for of_arm in different}) > 0.8 * len(different)


def test_runs_of_the_published_pages_are_not_made_again(tmp_path: Path) -> None:
    """Long sweeps take more hours than one sitting has: what another one made counts, from the same job."""
    planned = study.plan_study("fixed-cuts", [], ["long-cut"], 1)
    arms, out, quiet = planned["long-cut"], tmp_path / "out", Console(quiet=True)
    seeds = {
        label: {str(v.seed): {"run": v.run, **figures(30.0)} for v in variants}
        for (_, label), variants in arms.items()
    }
    gone = seeds["cut 10"].popitem()[1]
    (tmp_path / "long-cut.json").write_text(
        json.dumps({"groups": {"all": seeds}, "missing": [], "made_with": []})
    )
    base = load_job("fixed-cuts")
    published = study.read_published(tmp_path, ["long-cut", "cut"], base)
    assert len(published) == 9 and gone["run"] not in published
    found = study.sweep_results(arms, study.Store(out), published)
    assert found["missing"] == ["cut 10, seed 46"] and len(found["groups"]["all"]["cut 10"]) == 4
    everything = {**published, gone["run"]: gone}
    assert study.make_runs(planned, ["long-cut"], everything, out, 1, quiet) == 0 and not out.exists()
    other = study.plan_study("fixed-cuts", ["lora_r=12"], ["long-cut"], 1)["long-cut"]
    assert len(study.sweep_results(other, study.Store(out), published)["missing"]) == 10


@pytest.mark.parametrize(
    ("key", "value", "counts"), [("seed", 42, 1), ("a_later_key", 1, 1), ("lora_r", 3, 0)]
)
def test_pages_of_a_version_with_another_default_do_not_count(
    tmp_path: Path, key: str, value: Any, counts: int
) -> None:
    base = load_job("fixed-cuts")
    groups = {"all": {"cut 2": {"42": {"run": "a", **figures(30.0)}}}}
    kept = {"job": study.base_keys(base) | {key: value}, "groups": groups}
    (tmp_path / "cut.json").write_text(json.dumps(kept))
    assert len(study.read_published(tmp_path, ["cut"], base)) == counts


def test_what_a_study_could_have_shown() -> None:
    """Differences of the size that is told are decided in four of five studies, by trying."""
    draw = random.Random(3)
    sd, count = 0.01, 5
    least = shown(Paired((0.0,) * count, 0.0, sd, 0.0, 0.0))
    hits = 0
    for _ in range(2000):
        result = paired([draw.gauss(least, sd) for _ in range(count)])
        assert result is not None and result.low is not None
        hits += result.low > 0
    assert 0.75 < hits / 2000 < 0.85


def test_the_devices_spread_as_the_study_says() -> None:
    for bound in (COMPUTE, LINK):
        keys = devices(bound)
        job = load_job("fixed-cuts", [f"devices={keys['devices']}".replace("'", '"')])
        profiled = study.plan_variants("fixed-cuts", [], [study.Arm("x", keys)], [0])[0].job
        own = list(client_devices(profiled, [f"client-{i}" for i in range(5)]).values())
        assert job.devices == keys["devices"]
        assert max(d.flops for d in own) / min(d.flops for d in own) == pytest.approx(8)
        spread = max(d.uplink_bytes_per_second for d in own) / min(d.uplink_bytes_per_second for d in own)
        assert spread == pytest.approx(10 if bound == LINK else 1)


# Statistics


def test_the_interval_is_the_textbooks() -> None:
    result = paired([1.0, 2.0, 3.0])
    assert result is not None
    assert (result.mean, result.sd) == (2.0, 1.0)
    assert result.low == pytest.approx(2 - 4.303 / 3**0.5)
    assert result.high == pytest.approx(2 + 4.303 / 3**0.5)
    assert paired([]) is None
    assert paired([0.2]) == Paired((0.2,), 0.2, None, None, None)


@given(st.lists(SMALL, min_size=2, max_size=40), SMALL)
def test_the_interval_moves_with_the_values(values: list[float], shift: float) -> None:
    here, there = paired(values), paired([value + shift for value in values])
    assert here and there and here.low is not None and there.low is not None
    assert here.low - 1e-9 <= here.mean <= (here.high or 0) + 1e-9
    assert there.low == pytest.approx(here.low + shift, abs=1e-6)


@given(st.sampled_from(KINDS), st.floats(0, 3), st.lists(st.floats(-4, 4), min_size=2, max_size=5))
def test_a_verdict_speaks_for_all_of_the_interval(kind: Any, bound: float, values: list[float]) -> None:
    result = paired(values)
    assert result is not None and result.low is not None and result.high is not None
    verdict = judge(kind, bound, result)
    step = (result.high - result.low) / 50
    points = [result.low + i * step for i in range(51)]
    inside = [judge(kind, bound, Paired((p, p), p, 0.0, p, p)) == HOLDS for p in points]
    if verdict == HOLDS:
        assert all(inside[1:-1])
    elif verdict == FAILS:
        assert not any(inside[1:-1])
    else:
        assert verdict == NOISE


@pytest.mark.parametrize("kind", ["lower", "higher"])
def test_noise_is_seldom_taken_for_an_effect(kind: Any) -> None:
    draw = random.Random(7)
    held = 0
    for _ in range(2000):
        result = paired([draw.gauss(0, 0.02) for _ in range(3)])
        assert result is not None
        held += judge(kind, 0.0, result) == HOLDS
    assert 0.01 < held / 2000 < 0.04  # 2.5 % by the interval's own promise


def test_one_seed_and_equal_runs_decide_nothing_in_favour() -> None:
    claim = Claim("r-cut", "ours", "lower", "perplexity", ("g", "a"), ("g", "b"), "lower")
    one = {"g": {"a": {"1": figures(40)}, "b": {"1": figures(50)}}}
    assert decide(claim, one).verdict == NOISE
    assert "one seed" in decide(claim, one).figures
    equal = {"g": {arm: {seed: figures(40) for seed in "123"} for arm in "ab"}}
    assert decide(claim, equal).verdict == FAILS
    assert decide(claim, {"g": {"a": {"1": figures(40)}, "b": {"2": figures(40)}}}).verdict == UNMEASURED
    assert decide(claim, {}).verdict == UNMEASURED


def test_pairs_are_made_by_seed() -> None:
    arm = {"1": figures(99), "2": figures(49.5), "4": figures(7)}
    baseline = {"2": figures(50), "1": figures(100), "3": figures(8)}
    assert relative_differences(arm, baseline, "perplexity") == pytest.approx([-0.01, -0.01])
    claim = Claim("r-cut", "ours", "lower", "perplexity", ("g", "a"), ("g", "b"), "lower")
    told = decide(claim, {"g": {"a": arm, "b": baseline}})
    assert told.verdict == HOLDS
    assert "-1.0 %" in told.figures
    assert "n = 2" in told.figures


@given(SMALL)
def test_percentages_keep_their_sign_and_size(value: float) -> None:
    text = signed_percent(value)
    number = float(text.removesuffix(" %"))
    assert text.startswith(("+", "-")) or value == 0
    assert number == pytest.approx(100 * value, rel=0.06)


# The same perplexity


@given(st.lists(st.floats(20, 90), min_size=2, max_size=4), st.floats(1.1, 9))
def test_the_target_is_reached_by_all_and_speed_is_the_ratio(finals: list[float], speed: float) -> None:
    group = {f"arm{i}": {"1": figures(final)} for i, final in enumerate(finals)}
    group["fast"] = {"1": figures(finals[0], seconds=10 / speed)}
    found = add_targets(group)
    worst = max(finals)
    for arm, seeds in found.items():
        reached = seeds["1"]
        assert reached["target"] == worst
        assert reached["seconds_to_target"] <= reached["virtual_seconds"] * (1 + 1e-9)
        assert reached["rounds_to_target"] == pytest.approx(4 * (100 - worst) / (100 - reached["perplexity"]))
        assert reached["bytes_to_target"] == pytest.approx(100 * reached["rounds_to_target"])
        if reached["perplexity"] == worst:
            assert reached["rounds_to_target"] == pytest.approx(4), arm
    ratio = found["arm0"]["1"]["seconds_to_target"] / found["fast"]["1"]["seconds_to_target"]
    assert ratio == pytest.approx(speed)


def test_each_seed_has_its_own_target_and_divergence_has_none() -> None:
    group = {
        "a": {"1": figures(40), "2": figures(60), "3": figures(50)},
        "b": {"1": figures(50), "2": figures(55), "3": figures(50) | {"perplexity": None}},
    }
    found = add_targets(group)
    assert [found["a"][seed]["target"] for seed in "123"] == [50, 60, None]
    assert found["a"]["3"]["seconds_to_target"] is None
    assert "target" not in group["a"]["1"]


def test_without_devices_there_is_no_time_to_a_target() -> None:
    plain = figures(40)
    plain["curve"] = [[r, b, None, p] for r, b, _, p in plain["curve"]]
    found = add_targets({"a": {"1": plain}})["a"]["1"]
    assert found["seconds_to_target"] is None
    assert found["rounds_to_target"] == pytest.approx(4)


# Pages


def results(name: str) -> dict[str, Any]:
    """Results of every arm of a sweep with three seeds; later arms are worse and slower."""
    groups: dict[str, Any] = {}
    for number, (group, arm, _) in enumerate(SWEEPS[name].arms()):
        seeds = {
            str(seed): figures(40 + number + seed / 100, seconds=10 + number, transfer_share=0.1)
            for seed in (1, 2, 3)
        }
        groups.setdefault(group, {})[arm] = seeds
    return {
        "groups": {group: add_targets(arms) for group, arms in groups.items()},
        "missing": [],
        "plot": None,
    }


def test_the_page_has_every_sweep_every_claim_and_whole_tables() -> None:
    text = page({name: results(name) for name in SWEEPS}, "Settings.")
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings[2:] == [sweep.title for sweep in SWEEPS.values()]
    assert all(text.count(claim.text) == 2 for claim in CLAIMS)  # in the summary, and with its sweep
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M)
    assert len(tables) == 2 + sum(len(sweep.groups) for sweep in SWEEPS.values())
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1
    assert "None" not in text
    assert "nan" not in text


def test_the_papers_changes_stand_beside_those_of_runs_of_its_length() -> None:
    found = {name: results(name) for name in ("long-cut", "long-r-cut")}
    found["long-cut"]["groups"]["all"]["cut 10"]["3"] |= {"accuracy": 0.33}
    table = published_section(found)[-1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    by = {(row[0], row[1]): row[2:] for row in cells[2:]}
    assert by["cut 2 to 10", "accuracy"][:3] == [".0606 → .0629", "+3.8 %", "30.00 → 31.00 %"]
    assert by["cut 2 to 10", "accuracy"][3].startswith("+3.3 % [")
    assert by["r_cut 16 to 8", "traffic"][:2] == ["3490.1 → 3475.4 MiB", "-0.42 %"]
    assert not published_section({"cut": results("cut")}), "the short runs are not of its length"


def test_the_published_page_has_its_records_figures() -> None:
    docs = ROOT / "docs/study"
    text = (docs / "README.md").read_text(encoding="utf-8")
    records = {name: json.loads((docs / f"{name}.json").read_text(encoding="utf-8")) for name in SWEEPS}
    tables = [group_table(arms) for record in records.values() for arms in record["groups"].values()]
    assert all(part in text for part in (*published_section(records), *tables))


def test_an_incomplete_sweep_is_said_to_be_so_and_compares_what_is_there() -> None:
    found = results("gamma")
    del found["groups"]["all"]["gamma 1.0"]
    found["missing"] = ["gamma 1.0, seed 3"]
    text = page({"gamma": found}, "Settings.")
    assert "not finished: gamma 1.0, seed 3." in text
    verdicts = verdicts_of("gamma", found["groups"])
    assert [verdict.verdict for verdict in verdicts] == [FAILS, UNMEASURED]


def test_plans_stand_beside_the_clock() -> None:
    found = results("heterogeneity")
    (arm, *_) = found["groups"]["compute-bound, IID"].values()
    arm["1"]["planned_seconds"] = 1.1 * arm["1"]["virtual_seconds"]
    arm["1"]["told_seconds"] = arm["1"]["virtual_seconds"]
    text = page({"heterogeneity": found}, "Settings.")
    told = "told the cuts that the accuracies led to, 13.00 s (0 %)"
    assert text.count(f"the plan of seed 1 says 14.30 s, the clock 13.00 s (+10.0 %); {told}") == 1


def test_a_table_leaves_out_what_nobody_measured() -> None:
    table = group_table({"base": {"1": figures(40)}, "other": {"1": figures(44), "2": figures(45)}})
    assert "paper_accuracy" not in table
    assert "| base | 1 | 40.00 |" in table
    assert "+10.0 %" in table


@settings(max_examples=3, deadline=None)
@given(st.sampled_from(sorted(SWEEPS)))
def test_every_sweep_has_a_plot(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("plot") / "plot.png"
    assert plot_sweep(results(name)["groups"], "title", path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    assert not plot_sweep({"all": {}}, "title", path.with_name("none.png"))


def drawn(monkeypatch: pytest.MonkeyPatch, groups: Any, path: Path) -> Composed:
    """The figure of a sweep, as it is before it becomes pixels."""
    kept: list[Composed] = []
    png = Composed.png
    monkeypatch.setattr(Composed, "png", lambda own: kept.append(own) or png(own))
    assert plot_sweep(groups, "title", path)
    return kept[0]


def test_a_plot_leaves_out_what_is_the_same_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    groups = results("alpha")["groups"]
    for arm in groups["IID"].values():
        for seed, found in arm.items():
            found |= {"perplexity": 40.0 + int(seed), "seconds_to_target": 5.0}
    text = drawn(monkeypatch, groups, tmp_path / "alpha.png").svg("alpha")
    told = re.findall(r">([^<]+)</text>", text)
    for measure in ("Perplexity at the end", "Time to the same perplexity"):
        assert f"{measure}: same cut and splitft are the same to the last digit in IID." in told
    assert told.count("IID") == 1, "a panel of curves, and no row of zeros"
    assert told.count("alpha 0.1") == 3, "two rows of differences, and a panel of curves"


def test_panels_that_are_compared_share_their_axes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = results("heterogeneity")["groups"]
    figure = drawn(monkeypatch, groups, tmp_path / "all.png")
    curves = [chart for _, _, _, chart in figure._placed if chart.y_label.startswith("held-out")]
    limits = [(chart.figure.axes[0].get_xlim(), chart.figure.axes[0].get_ylim()) for chart in curves]
    assert len(curves) == len(groups) and len({str(own) for own in limits}) == 1
    differences = [chart for _, _, _, chart in figure._placed if chart not in curves]
    assert len({str(c.figure.axes[0].get_xlim()) for c in differences if c.height > 100}) <= 2


def test_pictures_of_benchmarks_name_what_lies_beyond_their_axis(tmp_path: Path) -> None:
    draw_quality({"int8": (0.5, [0.001, -0.001]), "topk": (0.4, [0.46])}, tmp_path / "q.svg", 0.05, "quality")
    text = (tmp_path / "q.svg").read_text()
    assert "Beyond the axis: topk: 40 % of the bytes, +46 %." in text and ">int8: 50 % of the bytes<" in text
    draw_scale([1, 2], {("time", "s"): {"measured": [1.0, 2.0]}}, tmp_path / "s.svg", "scale")
    assert {"measured", "time (s)", "clients (number)"} <= set(
        re.findall(r">([^<]+)</text>", (tmp_path / "s.svg").read_text())
    )


def test_only_the_study_as_it_is_writes_the_published_pages(tmp_path: Path) -> None:
    assert study.docs_of(study.parse(["all"])) == study.DOCS
    for other in (["rounds=2"], ["--seeds", "1"], ["--recipe", "quickstart"]):
        assert study.docs_of(study.parse(["cut", *other, "--out", str(tmp_path)])) == tmp_path / "docs"

"""The report: made from real tiny runs; it loads nothing, shows what was measured, escapes it all."""

from __future__ import annotations

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from cases import rest_slow
from report_runs import HOSTILE, QUIET, make_runs
from splitft.errors import JobError, OutputError
from splitft.tools.report.command import report_command
from splitft.tools.report.groups import group_runs
from splitft.tools.report.page import render_page
from splitft.tools.report.runs import collect_runs, read_run
from splitft.tools.report.series import points
from splitft.tools.report.table import verdict_columns, verdict_tables
from splitft.tools.report.units import figure
from splitft.tools.report.verdict import report_data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("report"))


PAGES: dict[tuple[object, ...], str] = {}


def page_of(*folders: Path) -> str:
    """The page of these runs without files to save; drawn once as long as no file of them changes."""
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    key = (*folders, *((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))
    if key not in PAGES:
        PAGES[key] = render_page(collect_runs(folders)[0], files=False)
    return PAGES[key]


class _Tags(HTMLParser):
    """All tags with their attributes, and the texts inside each chart by class."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.charts: list[list[tuple[str, str]]] = []
        self._text: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.tags.append((tag, own))
        if tag == "svg" and own.get("class") == "chart":
            self.charts.append([])
        self._text = (own.get("class") or "") if tag == "text" else None

    def handle_data(self, data: str) -> None:
        if self._text is not None and self.charts:
            self.charts[-1].append((self._text, data))
            self._text = None


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


@pytest.mark.parametrize(
    "name",
    rest_slow(
        ["study", "one", "forty", "names", "fed_lora", "devices", "."],
        ["one", "names", "fed_lora", "devices"],
    ),
)
def test_the_page_loads_nothing_and_every_axis_has_a_unit(made: Path, name: str) -> None:
    page = page_of(made / name)
    found = _Tags(page)
    assert not {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    names = {attribute for _, attributes in found.tags for attribute in attributes}
    assert not names & {"src", "href", "srcset", "xlink:href", "action", "style"}
    assert not [attribute for attribute in names if attribute.startswith("on")]
    for loading in ("http:", "https:", "url(", "@import", "javascript:"):
        assert loading not in page
    (policy,) = (own["content"] for tag, own in found.tags if tag == "meta" and "http-equiv" in own)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert found.charts
    for texts in found.charts:
        axes = [text for kind, text in texts if kind == "axis"]
        assert len(axes) == 2
        assert all(re.search(r"\(.+\)$", text) for text in axes), axes


def test_the_page_shows_what_the_history_says(made: Path) -> None:
    page = page_of(made / "study")
    lines = (made / "study/cut2-seed1/history.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert figure(last["perplexity"]) in page
    client = next(iter(last["clients"]))
    assert figure(first["clients"][client]["perplexity"]) in page
    assert headings(page)[:3] == ["Reached", "Paired by seed", "Difference to cuts 1, paired by seed"]
    assert headings(page)[3:6] == [
        "Perplexity by round",
        "Perplexity by round, second half",
        "Perplexity by data sent",
    ]
    assert {"Accuracy by round", "Perplexity at the end", "Cuts over time"} <= set(headings(page))
    assert {"Cost", "All that was sent"} <= set(headings(page))
    assert {"What was sent", "Who holds what data", "Conditions"} <= set(headings(page))
    assert "cuts 1" in page and "cuts 2" in page


def test_the_verdict_is_the_mean_over_seeds(made: Path) -> None:
    runs, _ = collect_runs([made / "study"])
    data = report_data(group_runs(runs))
    assert [row["label"] for row in data["variants"]] == ["cuts 1", "cuts 2"]
    for row, cut in zip(data["variants"], (1, 2), strict=True):
        summaries = [read_run(made / f"study/cut{cut}-seed{seed}").summary for seed in (1, 2)]
        ends = [summary["perplexity"] for summary in summaries]
        assert row["seeds"] == [1, 2]
        assert row["perplexity"]["mean"] == pytest.approx(sum(ends) / 2)
        assert row["perplexity"]["sd"] == pytest.approx(abs(ends[0] - ends[1]) / 2**0.5)
        phases = [summary["bytes_by_phase"] for summary in summaries]
        up = [phase["up"]["training"] for phase in phases]
        assert [phase["up"]["both"] for phase in phases] == [summary["bytes_up"] for summary in summaries]
        every = [phase[way]["evaluation"] for phase in phases for way in ("up", "down")]
        assert sum(every) > 0
        assert row["bytes_evaluation"]["mean"] == pytest.approx(sum(every) / 2)
        assert row["bytes_up"]["mean"] == pytest.approx(sum(up) / 2)
        assert row["trained_parameters"]["mean"] == summaries[0]["parameters"]["adapter"]
    lowest = [min(p.perplexity or 1e9 for p in points(run)) for run in runs]
    assert data["target_perplexity"] == pytest.approx(max(lowest))
    assert json.loads(json.dumps(data)) == data
    for table in verdict_tables(data):
        assert table.row_count == 2
    assert [len(column.cells) for column in verdict_columns(data)] == [2] * len(verdict_columns(data))


def test_names_of_clients_and_reasons_are_text_and_nothing_else(made: Path, tmp_path: Path) -> None:
    """A run makes plain names itself; a folder that came from elsewhere may hold any."""
    folder = tmp_path / "run"
    shutil.copytree(made / "devices", folder)
    for file in folder.glob("*.json*"):
        text = file.read_text()
        for number, name in enumerate(HOSTILE):
            text = text.replace(f'"client-{number}"', json.dumps(name))
        file.write_text(text.replace("target", "<em>target"))
    page = page_of(folder)
    assert "<script" not in page and "<img" not in page and "<em" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "&lt;em&gt;target" in page
    assert "{{ 7 * 7 }} &amp;amp;" in page
    assert len(_Tags(page).charts) == len(_Tags(page_of(made / "devices")).charts)


def test_the_same_runs_give_the_same_page_and_each_chart_is_described(made: Path) -> None:
    runs, _ = collect_runs([made / "one"])
    assert render_page(runs) == render_page(runs), "with its files, too"
    page = page_of(made / "study")
    charts = [own for tag, own in _Tags(page).tags if own.get("class") == "chart"]
    assert charts and all(own["role"] == "img" and own["aria-label"] for own in charts)
    assert not [own for _, own in _Tags(page).tags if "id" in own], "ids of two charts would be the same"


def test_charts_have_the_colours_of_the_page_in_light_and_dark(made: Path) -> None:
    page = page_of(made / "study")
    light, dark = page.split("@media screen and (prefers-color-scheme: dark)")
    used = set(re.findall(r"var\(--(\w+)\)", page))
    assert {"v0", "v1", "p0", "ink", "soft", "grid", "base"} <= used
    for name in used:
        assert f"--{name}:" in light and f"--{name}:" in dark.split("@media")[0]


def test_a_hostile_title_note_and_folder_are_escaped(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "<b>run<"
    shutil.copytree(made / "one", folder)
    unseen = "\x1b]52;c;cm0gLXJm\x07 \x9b2J \u202egnp.exe"
    page = render_page([read_run(folder)], "<i>title</i>", notes=["<u>note</u>", unseen])
    assert not re.search(r"<[biu]>", page)
    assert not set(page) & set("\x1b\x07\x9b\u202e")
    assert "\ufffd]52;c;cm0gLXJm\ufffd \ufffd2J \ufffdgnp.exe" in page
    assert "&lt;b&gt;run&lt;" in page and "&lt;i&gt;title" in page and "&lt;u&gt;note" in page


def test_devices_are_shown_where_they_were_simulated_and_only_there(made: Path) -> None:
    run_ = read_run(made / "devices")
    timed = any(line.get("virtual_seconds") for line in run_.rounds)
    page = page_of(made / "devices")
    for heading in ("Who waits for whom", "Perplexity by simulated time"):
        assert (heading in headings(page)) == timed
    assert ("client-0: phone" in page and "Virtual time is simulated" in page) == timed
    without = page_of(made / "study")
    assert "Who waits for whom" not in headings(without) and "imulated" not in without


def test_cuts_that_move_and_their_reasons_are_shown(made: Path) -> None:
    run_ = read_run(made / "devices")
    page = page_of(made / "devices")
    rounds = [line["cuts"] for line in run_.rounds[1:]]
    assert rounds == [{"client-0": 1, "client-1": 2, "client-2": 3}, dict.fromkeys(rounds[1], 1)]
    for about in ("cut 3 from round 1", "cut 1 from round 2"):
        shown = page.split("<h2>Cuts over time</h2>")[1].split("</figure>")[0]
        assert re.search(rf">client-2( · workstation)?</text><text [^>]*>{about}<", shown)
    assert run_.decisions
    for decision in run_.decisions:
        for reason in decision["reasons"].values():
            assert html.escape(reason, quote=False) in page


def test_a_method_without_cuts_has_no_panel_of_cuts(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fed_lora"
    shutil.copytree(made / "fed_lora", folder)
    lines = [
        json.loads(line) | {"cuts": None} for line in (folder / "history.jsonl").read_text().splitlines()
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Cuts over time" not in headings(page_of(folder))
    page = page_of(folder, made / "study")
    assert "Cuts over time" in headings(page) and "fed_lora" in page
    panels = page.split("<h2>Cuts over time</h2>")[1].split("</section>")[0]
    assert panels.count("<figure") == 2


def test_forty_clients_get_numbers_and_one_client_its_name(made: Path) -> None:
    forty, one = page_of(made / "forty"), page_of(made / "one")
    assert "client (number, in their order)" in forty and "client (number, in their order)" not in one
    assert "client-0" in one


def test_a_run_that_lacks_newer_fields_is_shown(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(made / "study/cut1-seed1", folder)
    newer = ("paper_accuracy", "virtual_seconds", "waited_for", "truncation_error", "bytes")
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for line in lines:
        for key in newer:
            line.pop(key, None)
        for client in line["clients"].values():
            client.pop("virtual", None), client.pop("paper_accuracy", None)
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("partition.json", "decisions.jsonl", "summary.json"):
        (folder / name).unlink(missing_ok=True)
    job = (folder / "job.yaml").read_text().splitlines()
    kept = [line for line in job if not line.startswith(("method:", "order:", "aggregation:", "devices:"))]
    (folder / "job.yaml").write_text("\n".join(kept) + "\n")
    page = page_of(folder)
    assert "Perplexity by round" in page and "paper accuracy" not in page
    assert "Who holds what data" not in headings(page)
    data = report_data(group_runs([read_run(folder)]))
    assert data["variants"][0]["bytes_up"]["mean"] == sum(line["bytes_up"] for line in lines)


def test_an_interrupted_run_is_shown_and_said_to_be_so(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made / "study/cut1-seed1", folder)
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:2]) + lines[2][:40])  # a line half written
    assert "interrupted after round 1 of 2" in page_of(folder)
    data = report_data(group_runs(collect_runs([folder, made / "study"])[0]))
    assert [row["seeds"] for row in data["variants"]] == [[1, 2], [1, 2]], "no mean has an interrupted run"
    assert "interrupted after round 1 of 2" in page_of(folder, made / "study")


def test_the_same_seed_twice_counts_once(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "one", tmp_path / "again")
    data = report_data(group_runs(collect_runs([made / "one", tmp_path])[0]))
    assert data["variants"][0]["seeds"] == [42]
    assert "same job and seed" in data["variants"][0]["left_out"][0]["why"]


def test_random_weights_are_said(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made / "one", folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"random_weights": True}))
    assert "Random weights" in page_of(folder) and "Random weights" not in page_of(made / "one")


def test_a_diverged_run_is_said(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made / "one", folder)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    lines[-1]["perplexity"] = None
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "1 of 1 runs diverged" in page_of(folder)


def test_the_command_writes_where_the_runs_are_and_over_its_own_page_only(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "study", tmp_path / "study")
    console = Console(record=True, width=80, quiet=False, file=(tmp_path / "shown").open("w"))
    path = report_command([tmp_path / "study"], title="Two cuts", console=console)
    assert path == tmp_path / "study" / "report.html" and "<h1>Two cuts</h1>" in path.read_text()
    shown = console.export_text()
    assert "cuts 1" in shown and str(path) in shown.replace("\n", "")
    assert report_command([tmp_path / "study"], console=QUIET) == path, "our own page is written anew"
    assert "Two cuts" not in path.read_text()
    assert sorted(p.name for p in path.parent.iterdir() if not p.is_dir()) == ["report.html"]
    single = tmp_path / "study/cut1-seed1"
    assert report_command([single], console=QUIET) == single / "report.html"
    notes = tmp_path / "notes.html"
    notes.write_text("<p>mine</p>")
    for wrong in (notes, tmp_path / "absent" / "page.html"):
        with pytest.raises(OutputError, match=r"notes\.html|absent"):
            report_command([single], wrong, console=QUIET)
    assert notes.read_text() == "<p>mine</p>"
    assert report_command([single], tmp_path, console=QUIET) == tmp_path / "report.html"


@pytest.mark.parametrize(
    ("file", "content", "error", "match"),
    [
        ("job.yaml", None, JobError, "no run"),
        ("history.jsonl", None, JobError, "no round"),
        ("history.jsonl", "", JobError, "no round"),
        ("history.jsonl", '{"round": 0', JobError, "no round"),
        ("history.jsonl", "{}\n", OutputError, "history.jsonl is damaged"),
        ("history.jsonl", "[1]\n", OutputError, "line 1: damaged"),
        ("history.jsonl", "{\n{}\n", OutputError, "line 1: damaged"),
        ("summary.json", "{", OutputError, "summary.json: damaged"),
        ("partition.json", "3", OutputError, "partition.json: damaged"),
        ("job.yaml", "seed: x\n", OutputError, "damaged: seed"),
        ("job.yaml", "- 1\n", OutputError, "not a mapping"),
    ],
)
def test_a_folder_that_is_no_run_or_a_damaged_one_is_told(
    made: Path, tmp_path: Path, file: str, content: str | None, error: type[Exception], match: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(made / "one", folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(error, match=match):
        read_run(folder)


def test_runs_below_a_folder_are_found_and_begun_ones_passed_over(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "study", tmp_path / "deep" / "study")
    begun = tmp_path / "deep" / "begun"
    begun.mkdir()
    shutil.copy(made / "one/job.yaml", begun)
    runs, passed_over = collect_runs([tmp_path, tmp_path / "deep"])
    assert len(runs) == 4 and any("begun" in text for text in passed_over)
    assert "Left out" in report_command([tmp_path], console=QUIET).read_text()
    for nothing in (begun, tmp_path / "absent"):
        with pytest.raises(JobError):
            collect_runs([nothing])
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match="no run"):
        collect_runs([tmp_path / "empty"])


def test_variants_keep_their_order_whatever_the_order_of_runs(made: Path) -> None:
    runs, _ = collect_runs([made / "study", made / "fed_lora"])
    labels = [variant.label for variant in group_runs(runs)]
    assert [variant.label for variant in group_runs(runs[::-1])] == labels
    assert labels[0] == "fed_lora"

"""What a job's server will be able to read: from its keys, and from recorded audits alone."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from splitft import Job
from splitft.job.audited import LABELS, TEXT, figure_at, figures, record
from splitft.job.exposure import AS_IT_IS, NOT_MEASURED, exposure, shallowest_cut

AGGREGATOR = "averages.example.org:50052"


def job_of(**changes: Any) -> Job:
    return Job(**{"model_name_or_path": "m", "dataset_name": "d", "codec": "int8"} | changes)


JOBS: list[dict[str, Any]] = [
    {"labels": "server"}, {"labels": "server", "server_evaluates": False}, {"labels": "client"},
    {"labels": "client", "cuts": 8}, {"labels": "client", "train_front": False, "cuts": 4},
    {"method": "fed_lora"}, {"method": "local_only"}, {"method": "centralized"},
]  # fmt: skip


@pytest.mark.parametrize("keys", JOBS, ids=str)
def test_two_sentences_one_line_and_a_table(keys: dict[str, Any]) -> None:
    found = exposure(job_of(**keys), AGGREGATOR, 30)
    assert "\n" not in found.summary and len(found.summary) < 240
    assert len(re.findall(r"\.(?:\s|$)", found.sentences)) == 2, found.sentences
    assert bool(found.sent) == (keys.get("method") != "local_only")
    assert all(one.what and one.to and one.readable for one in found.sent)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 8, 11])
def test_figures_are_those_of_the_recorded_audit(cut: int) -> None:
    """The best attack at the deepest audited cut that is not deeper than the job's."""
    text, labels = figure_at(TEXT, cut), figure_at(LABELS, cut)
    assert text.cut == max(one.cut for one in figures() if one.cut <= cut)
    told = exposure(job_of(labels="client", cuts=cut), None, 30)
    everything = told.summary + told.sentences + "".join(one.readable for one in told.sent)
    for share in re.findall(r"(\d+(?:\.\d)?) ?%", everything):
        known = [value for one in (text, labels) for value in (one.value, one.floor)]
        assert any(share in (f"{100 * value:.0f}", f"{100 * value:.1f}") for value in known), share
    assert f"{100 * text.value:.0f} %" in told.summary and f"cut {text.cut}" in told.summary
    assert f"{100 * text.value:.1f} % of tokens" in told.sent[0].readable
    assert f"activations of every row after {cut} block" in told.sent[0].what
    assert max(one.value for one in figures() if (one.of, one.cut) == (TEXT, text.cut)) == text.value


def test_the_record_names_its_command_and_its_conditions() -> None:
    for audit in record()["audits"]:
        (cuts,) = re.findall(r"cuts=(\[.*?\])", audit["command"])
        assert audit["cut"] in json.loads(cuts) and f"--rows {audit['rows']}" in audit["command"]
        assert audit["checks"] and all(check["ok"] for check in audit["checks"])
        assert not {"samples", "true", "recovered"} & set(audit)
        assert {line["of"] for line in audit["lines"]} == {TEXT, LABELS}


def test_the_cut_that_tells_most_counts() -> None:
    assert shallowest_cut(job_of(cuts=[4, 2, 8, 4, 4])) == 2
    moving = {"method": "splitft", "min_cut": 3}
    assert shallowest_cut(job_of(cuts=6, cut_policy=moving)) == 3
    assert shallowest_cut(job_of(cuts=6, cut_policy=moving, method="same_split")) == 6
    schedule = {"method": "schedule", "schedule": {"2": 1, "4": [5, 6, 7, 8, 9]}}
    assert shallowest_cut(job_of(cuts=6, cut_policy=schedule)) == 1


def test_to_whom_adapters_go() -> None:
    for keys in ({"labels": "client"}, {"method": "fed_lora"}):
        with_one = {one.to for one in exposure(job_of(**keys), AGGREGATOR).sent if "adapter" in one.what}
        assert with_one == {f"the aggregator ({AGGREGATOR})"}
        without = {one.to for one in exposure(job_of(**keys)).sent}
        assert without == {"the server"}
    whole = exposure(job_of(method="fed_lora"))
    assert not [one for one in whole.sent if "activations" in one.what]
    assert NOT_MEASURED in whole.sentences and "No activations" in whole.sentences
    assert AS_IT_IS in exposure(job_of(labels="server")).sent[0].readable

"""Evaluations: by the server as through the split, on samples, with intervals; training never notices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import QUIET, assert_same_bits, final_adapter, trained
from wire_record import Wire

from cases import rest_slow
from splitft import Job, run
from splitft.common.failpoints import VARIABLE
from splitft.history import RoundRecord
from splitft.wire.messages import HeldOut

CASES: dict[str, dict[str, Any]] = {
    "per client": {"cuts": [1, 3, 2, 2]},
    "cuts move, lower rank": {
        "lora_r_cut": 2,
        "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2, 3, 4], "2": [4, 1, 3, 2]}},
    },
    "front frozen": {"train_front": False, "adapter_name_or_path": None},
    "shared": {"server_adapter": "shared"},
}
SAMPLE = {
    "eval_precision": "auto", "max_eval_samples": 48, "eval_fraction": 0.5, "eval_every": 1,
    "warmup_steps": 0,
}  # fmt: skip


def figures(record: Any) -> tuple[Any, ...]:
    clients = [(c.perplexity, c.accuracy, c.paper_accuracy, c.eval_tokens) for c in record.clients.values()]
    return record.perplexity, record.accuracy, record.paper_accuracy, clients


def nearly(one: Any, other: Any) -> bool:
    """Whether two evaluations of all rows, in other batches, found the same."""
    (perplexity, *counts, own), (wanted, *others, theirs) = figures(one), figures(other)
    assert perplexity == pytest.approx(wanted, rel=1e-5)
    assert counts == others
    return [figure[3] for figure in own] == [figure[3] for figure in theirs]


@pytest.mark.parametrize("case", rest_slow(CASES, 1))
def test_the_server_finds_what_the_split_finds_and_training_is_the_same(
    case: str, settings_of: Any, tmp_path: Path
) -> None:
    settings = settings_of("llama") | {"eval_every": 1, "save_every": 0, **CASES[case]}
    _, here = trained(settings, tmp_path / "server")
    _, split = trained(settings, tmp_path / "split", server_evaluates=False)
    assert [figures(record) for record in here.history] == [figures(record) for record in split.history]
    assert_same_bits(final_adapter(here), final_adapter(split))
    assert "held_out" not in split.summary["bytes"]["up"]
    assert here.summary["bytes"]["up"]["held_out"] < split.summary["bytes"]["up"]["evaluation"]
    for record, other in zip(here.history, split.history, strict=True):
        kinds = record.bytes["up"].keys() | record.bytes["down"].keys()
        for kind in kinds - {"evaluation", "held_out"}:
            assert record.bytes["up"].get(kind) == other.bytes["up"].get(kind)


def test_ids_cross_once_those_of_the_sample_first(
    llama: dict[str, Any], tmp_path: Path, wire: type[Wire]
) -> None:
    settings = llama | SAMPLE | {"clients": 2, "cuts": 2, "rounds": 2, "local_steps": 1}
    _, result = trained(settings, tmp_path / "run")
    rows = [sum(len(m.lengths) for _, _, m, _ in wire.sent if isinstance(m, HeldOut) and m.round == number)
            for number in range(3)]  # fmt: skip
    first, last = result.history[0], result.history[-1]
    assert rows == [first.eval_rows, 0, last.held_out_rows - first.eval_rows]
    assert 0 < first.eval_rows < first.held_out_rows == last.eval_rows


def test_a_sample_tells_of_all_rows_within_its_interval(llama: dict[str, Any], tmp_path: Path) -> None:
    settings = llama | SAMPLE | {"clients": 2, "cuts": 2, "rounds": 2, "local_steps": 2}
    _, some = trained(settings, tmp_path / "some")
    _, every = trained(settings, tmp_path / "every", eval_precision=None)
    assert_same_bits(final_adapter(some), final_adapter(every))
    assert nearly(some.history[-1], every.history[-1])
    for sampled, whole in zip(some.history[:-1], every.history[:-1], strict=True):
        assert sampled.sampled and not whole.sampled
        assert whole.perplexity_interval == 0
        assert sampled.perplexity_interval and sampled.perplexity_interval > 0
        assert abs(sampled.perplexity - whole.perplexity) < 2 * sampled.perplexity_interval
    assert some.history[0].perplexity_change is None
    # Before and after are of the same rows.
    last, summary = some.history[-1], some.summary
    assert last.change_interval and last.perplexity_change is not None
    assert summary["perplexity_before"] == pytest.approx(last.perplexity / (1 + last.perplexity_change))
    assert summary["perplexity_change"] == pytest.approx(last.perplexity_change)
    exact = every.history[-1]
    assert exact.perplexity_change == pytest.approx(
        exact.perplexity / every.history[0].perplexity - 1, abs=1e-6
    )
    assert exact.change_interval == 0
    assert abs(last.perplexity_change - exact.perplexity_change) < 2 * last.change_interval


@pytest.mark.parametrize("changes", [{"labels": "client"}, {"method": "fed_lora"}, {"method": "local_only"}])
def test_samples_where_rows_stay_at_home(
    changes: dict[str, Any], llama: dict[str, Any], tmp_path: Path
) -> None:
    settings = llama | SAMPLE | {"clients": 2, "cuts": 2, "rounds": 1, "local_steps": 1, **changes}
    _, some = trained(settings, tmp_path / "some")
    _, every = trained(settings, tmp_path / "every", eval_precision=0)
    assert some.history[0].eval_rows < every.history[0].eval_rows == every.history[0].held_out_rows
    assert nearly(some.history[-1], every.history[-1])


@pytest.mark.parametrize("changes", [{}, {"labels": "client"}], ids=["ids at the server", "labels at home"])
def test_an_interrupted_sample_goes_on_without_crossing_again(
    changes: dict[str, Any], llama: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = llama | SAMPLE | {"clients": 2, "cuts": 2, "rounds": 3, "local_steps": 1, **changes}
    _, whole = trained(settings, tmp_path / "whole")
    monkeypatch.setenv(VARIABLE, "run.recorded:3:interrupt")
    with pytest.raises(KeyboardInterrupt):
        trained(settings, tmp_path / "cut")
    monkeypatch.delenv(VARIABLE)
    resumed = run(Job(**settings, output_dir=str(tmp_path / "cut")), console=QUIET, resume=True)
    assert [timeless(record) for record in resumed.history] == [timeless(record) for record in whole.history]
    assert resumed.summary["bytes"] == whole.summary["bytes"]


def timeless(record: RoundRecord) -> RoundRecord:
    return replace(record, round_seconds=0.0, evaluation_seconds=0.0)

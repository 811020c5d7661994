"""A5: membership and canaries of an adapter, on scores worked out by hand and on runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from reference import make_setting
from splitft import Job, run
from splitft.errors import JobError
from splitft.tools.audit.adapter import read_adapter
from splitft.tools.audit.attacks.adapter import exposure, levels_of, membership
from splitft.tools.audit.command import audit_command
from splitft.tools.audit.published import CANARIES, MEMBERS, NONE

QUIET = Console(quiet=True)


def test_the_auc_of_scores_worked_out_by_hand() -> None:
    found = membership(np.array([3.0, 2.0, 1.0]), np.array([2.0, 0.0]))
    assert found is not None
    assert found.auc == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 1) / 6)
    assert 0 <= found.low < found.auc < found.high <= 1
    assert membership(np.array([1.0]), np.array([0.0, 1.0])) is None
    equal = membership(np.zeros(5), np.zeros(4))
    assert equal is not None and equal.auc == 0.5


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Gaussians one apart: the AUC is Φ(1 / √2) = .760."""
    random, truth, hits = np.random.default_rng(5), 0.7602, 0
    for _ in range(2000):
        found = membership(random.normal(1, 1, 60), random.normal(0, 1, 60))
        assert found is not None
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / 2000 <= 0.97


def test_exposure_is_the_rank_and_nothing_beyond() -> None:
    references = np.arange(511.0)
    assert exposure(1e9, references) == 9.0
    assert exposure(-1.0, references) == 0.0
    assert exposure(255.5, references) == pytest.approx(math.log2(512 / 256))
    assert exposure(7.0, np.full(511, 7.0)) == pytest.approx(math.log2(512 / 256.5))


def test_a_canary_that_was_not_planted_has_one_and_a_half_bits_on_average() -> None:
    random = np.random.default_rng(1)
    bits = [exposure(random.normal(), random.normal(size=511)) for _ in range(4000)]
    assert np.mean(bits) == pytest.approx(1 / math.log(2), abs=0.08)


def test_levels_keep_their_canaries() -> None:
    levels = levels_of([0, 16, 0, 16], np.array([5.0, 600.0, 100.0, 601.0]), np.arange(511.0))
    assert [(level.copies, len(level.exposures), level.first) for level in levels] == [(0, 2, 0), (16, 2, 2)]
    assert levels[1].median == 9.0 > levels[0].median


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("canaries")
    return make_setting(folder, "llama") | {
        "adapter_name_or_path": None, "method": "fed_lora", "clients": 1, "canaries": 8, "max_length": 96,
        "max_eval_samples": None, "eval_fraction": 0.3, "rounds": 1, "per_device_train_batch_size": 16,
        "learning_rate": 0.02, "lora_r": 8, "max_grad_norm": 1.0, "warmup_steps": 0, "eval_every": 9,
        "padding_free": "auto",
    }  # fmt: skip


def test_a_run_that_learns_by_heart_is_found(setting: dict[str, Any], tmp_path: Path) -> None:
    run(Job(**setting, local_steps=60, output_dir=str(tmp_path / "run")), console=QUIET)
    (reading,) = read_adapter(tmp_path / "run", references=256)
    by_copies = {level.copies: level for level in reading.levels}
    assert list(by_copies) == [0, 1, 4, 16] and all(len(level.exposures) == 8 for level in reading.levels)
    assert by_copies[16].median > 6 > 4 > by_copies[0].median
    assert reading.membership is not None  # of rows alone, without canaries
    assert (reading.membership.trained, reading.membership.held_out) == (42, 18)
    assert reading.most_bits == pytest.approx(math.log2(257))
    assert json.loads(json.dumps(reading.to_json()))["levels"][3]["first"] == by_copies[16].first


def test_a_run_that_learns_nothing_tells_nothing(setting: dict[str, Any], tmp_path: Path) -> None:
    own = setting | {"learning_rate": 1e-12, "local_steps": 1}
    run(Job(**own, output_dir=str(tmp_path / "run")), console=QUIET)
    (reading,) = read_adapter(tmp_path / "run", references=256)
    found = reading.membership
    assert found is not None and found.low <= 0.5 <= found.high
    assert all(level.median < 5 for level in reading.levels)


def test_what_is_no_run_is_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(JobError, match="holds no run with an adapter"):
        read_adapter(tmp_path)
    run(Job(**setting, local_steps=1, output_dir=str(tmp_path / "run")), console=QUIET)
    with pytest.raises(JobError, match="take 256 or more"):
        read_adapter(tmp_path / "run", references=64)


def audited(job: Job, folder: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Audit a run; return the lines of its adapter by attack, and what was not tried."""
    told = audit_command(job, rows=40, run=folder, console=QUIET)
    return {line["attack"]: line for line in told["lines"] if line["of"] in ("rows", "canaries")}, told[
        "not_tried"
    ]


def test_an_audit_of_a_run_asks_its_adapter(setting: dict[str, Any], tmp_path: Path) -> None:
    """What is learned by heart is told; of a run that learns nothing, nothing is."""
    found = {}
    for name, steps, rate in (("heart", 60, 0.02), ("nothing", 1, 1e-12)):
        own = setting | {"learning_rate": rate, "local_steps": steps, "output_dir": str(tmp_path / name)}
        run(Job(**own), console=QUIET)
        found[name], not_tried = audited(Job(**own), tmp_path / name)
        assert not any("membership" in one for one in not_tried)
    heart, nothing = found["heart"], found["nothing"]
    assert heart[CANARIES]["verdict"] == "readable" and "16 copies: " in heart[CANARIES]["note"]
    assert "AUC " in heart[MEMBERS]["note"] and "40 training rows beside 18" in heart[MEMBERS]["note"]
    assert nothing[CANARIES]["verdict"] != "readable" != nothing[MEMBERS]["verdict"]


def test_a_folder_without_an_adapter_says_so(setting: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lines, not_tried = audited(Job(**setting, output_dir=str(tmp_path / "run")), tmp_path / "run")
    assert not lines and NONE in not_tried

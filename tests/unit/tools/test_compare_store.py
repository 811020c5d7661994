"""Promises of a comparison's folder: what a run left decides whether it stands, goes on, or is made anew."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from compare_jobs import make_job
from splitft.common.checkpoint import save_checkpoint
from splitft.errors import OutputError
from splitft.job import dump_job, load_job
from splitft.tools.compare.arms import (
    Arm,
    make_arms,
)
from splitft.tools.compare.plan import plan_variants
from splitft.tools.compare.store import MARKER, Store, open_store, prepare_run, run_state
from splitft.tools.compare.sweep import run_sweep, write_index


def finish(folder: Path, interrupted: bool = False) -> None:
    (folder / "history.jsonl").write_text('{"round": 0}\n')
    (folder / "summary.json").write_text(json.dumps({"interrupted": interrupted}))


def test_the_state_of_a_run_follows_what_it_left(tmp_path: Path) -> None:
    store, job = Store(tmp_path), make_job()
    assert run_state(store, "a") == "absent"
    written = prepare_run(store, "a", job)
    assert load_job(written) == job.model_copy(update={"output_dir": str(tmp_path / "runs" / "a")})
    assert run_state(store, "a") == "unfinished"
    finish(store.run("a"), interrupted=True)
    assert run_state(store, "a") == "unfinished"
    finish(store.run("a"))
    assert run_state(store, "a") == "finished"
    (store.run("a") / "summary.json").write_text('{"interrup')
    assert run_state(store, "a") == "unfinished"


def test_an_unfinished_run_is_moved_away_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in (1, 2):
        prepare_run(store, "a", make_job())
        finish(store.run("a"), interrupted=True)
        (store.run("a") / "mine.txt").write_text(str(number))
    prepare_run(store, "a", make_job())
    assert [path.name for path in store.run("a").iterdir()] == [MARKER]
    kept = sorted((tmp_path / "unfinished").iterdir())
    assert [(path / "mine.txt").read_text() for path in kept] == ["1", "2"]
    prepare_run(store, "a", make_job())  # nothing but the marker in it: no third one
    assert len(list((tmp_path / "unfinished").iterdir())) == 2


@pytest.mark.parametrize(
    ("how", "goes_on"), [("whole", True), ("damaged", False), ("another default", False), ("no job", False)]
)
def test_an_unfinished_run_goes_on_where_it_has_a_whole_checkpoint_of_this_job(
    tmp_path: Path, how: str, goes_on: bool
) -> None:
    store, job = Store(tmp_path), make_job()
    prepare_run(store, "a", job)
    finish(store.run("a"), interrupted=True)
    save_checkpoint(store.run("a") / "checkpoints", 1, {"state": torch.ones(3)}, keep=1)
    dump_job(job, store.run("a") / "job.yaml")
    if how == "another default":
        dump_job(job.model_copy(update={"lora_r": 77}), store.job("a"))
    elif how == "damaged":
        next(store.run("a").rglob("tensors.safetensors")).write_bytes(b"")
    elif how == "no job":
        (store.run("a") / "job.yaml").unlink()
    prepare_run(store, "a", job)
    assert (store.run("a") / "history.jsonl").exists() == goes_on
    assert (tmp_path / "unfinished" / "a-1" / "history.jsonl").exists() != goes_on


@pytest.mark.parametrize("how", ["file", "folder", "copied", "link", "finished"])
def test_what_no_comparison_made_and_what_is_finished_is_never_touched(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path / "out")
    folder = store.run("a")
    folder.parent.mkdir(parents=True)
    if how == "file":
        folder.write_text("mine")
    elif how == "link":
        prepare_run(store, "b", make_job())
        folder.symlink_to(store.run("b"))
    elif how == "finished":
        prepare_run(store, "a", make_job())
        finish(folder)
    else:
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
        if how == "copied":  # another run's folder, renamed
            (folder / MARKER).write_text(json.dumps({"run": "b"}))
    before = sorted((str(path), path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))
    assert run_state(store, "a") == ("finished" if how == "finished" else "foreign")
    with pytest.raises(OutputError, match="--out"):
        prepare_run(store, "a", make_job())
    assert before == sorted((str(path), path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))


def test_a_finished_run_of_a_version_with_another_default_is_not_taken_for_this_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (variant,) = plan_variants(make_job(), [], [Arm("one", {})], [1])
    file = prepare_run(store, variant.run, variant.job)
    finish(store.run(variant.run))
    file.write_text(re.sub("^lora_r: .*$", "lora_r: 77", file.read_text(), flags=re.M))
    with pytest.raises(OutputError, match="another default of lora_r"):
        run_sweep([variant], tmp_path, index=tmp_path / "i.json", parallel=1, console=Console(quiet=True))
    assert run_state(store, variant.run) == "finished"


def test_one_comparison_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with open_store(tmp_path / "new"):
        with pytest.raises(OutputError, match="another comparison is at work"), open_store(tmp_path / "new"):
            pass
        with open_store(tmp_path / "other"):
            pass
    with open_store(tmp_path / "new"):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out"), open_store(tmp_path / "file" / "out"):
        pass


def test_the_index_says_which_run_belongs_to_which_variant(job_file: str, tmp_path: Path) -> None:
    variants = plan_variants(job_file, [], make_arms([], {"lora_r_cut": [2, 4]}, "fixed"), [7, 8])
    write_index(tmp_path / "sweep" / "sweep.json", Store(tmp_path), variants)
    index = json.loads((tmp_path / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    assert [(v["overrides"], v["seed"], v["run"]) for v in index["variants"]] == [
        ({"lora_r_cut": rank}, seed, f"runs/{variant.run}")
        for (rank, seed), variant in zip([(2, 7), (2, 8), (4, 7), (4, 8)], variants, strict=True)
    ]

"""A data set of the hub at one revision: the job names it, and what the cache has instead is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fresh import run_code
from hub import COMMIT, Hub, serve
from splitft.data.sources import read_sources
from splitft.errors import DataError, JobError
from splitft.job import Job
from splitft.job.file import make_job

# Read the data set of each job in turn; a line each: the note, or the error.
_READ = """
import json, sys
from splitft.common.startup import import_libraries
import_libraries()
from splitft.data.sources import read_sources
from splitft.errors import SplitFTError
from splitft.job import Job
told = []
for changes in json.loads(sys.argv[1]):
    try:
        (table,) = read_sources(Job(model_name_or_path="unused", dataset_name="org/data", **changes))["data"]
        told.append(table.note or f"{len(table)} rows")
    except SplitFTError as error:
        told.append(str(error))
print(json.dumps(told))
"""
OTHER = "f" * 40


def read(url: str, home: Path, *jobs: dict[str, Any], **more: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = {**clean, "HF_ENDPOINT": url, "HF_HOME": str(home), **more}
    done = run_code(_READ, json.dumps(jobs), environment=environment)
    assert done.returncode == 0, done.stderr
    told: list[str] = json.loads(done.stdout)
    return told


@pytest.mark.slow
def test_a_revision_is_asked_for_told_and_held_to(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"text": "the first"}\n{"text": "the second"}\n')
    jobs = [{}, {"dataset_revision": COMMIT}, {"dataset_revision": "v9"}]
    with serve(Hub({}, {"org/data": tmp_path / "set"})) as hub:
        moving, pinned, wrong = read(hub.url, tmp_path / "home", *jobs)
    assert moving.startswith(f"org/data: revision main is commit {COMMIT}; dataset_revision={COMMIT} reads")
    assert pinned == "2 rows"
    assert "split 'train', revision 'v9' cannot be loaded" in wrong
    # Without the hub, `datasets` takes what it has, whatever was asked for.
    jobs = [{"dataset_revision": COMMIT}, {"dataset_revision": OTHER}]
    pinned, wrong = read("http://127.0.0.1:9", tmp_path / "home", *jobs, HF_HUB_OFFLINE="1")
    assert pinned == "2 rows"
    has = f"the hub's cache has org/data at commit {COMMIT}"
    assert wrong.startswith(f"{has}, not at dataset_revision {OTHER}")


def test_what_has_no_revisions_is_not_asked_for_one(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n')
    job = Job(model_name_or_path="unused", dataset_name=str(tmp_path), dataset_revision="v1")
    with pytest.raises(DataError, match="is a folder here, and has no revisions"):
        read_sources(job)
    for source in ({"dataset_name": "builtin:sotu"}, {"data_files": "notes.txt"}):
        with pytest.raises(JobError, match="dataset_revision: is of a data set of the hub"):
            make_job({"model_name_or_path": "unused", "dataset_revision": "v1", **source})

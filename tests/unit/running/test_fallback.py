"""Where the hub does not answer, a fallback is taken and said; a wrong name stays an error."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fresh import run_code
from hub import Hub, serve
from splitft.errors import JobError
from splitft.job import Job
from splitft.running.fallback import resolve_sources
from splitft.weights.hub import is_hubs_answer
from tiny import save_tiny_model, save_to

# Resolve a job in a fresh process, then use what was resolved; `told` is what went wrong with that.
_RESOLVE = """
import json, sys
from splitft.common.startup import import_libraries
import_libraries()
from splitft.data.records import read_records
from splitft.errors import SplitFTError
from splitft.running.fallback import resolve_sources
from splitft.job import Job
from splitft.weights.load import load_model, load_tokenizer
job, notices = resolve_sources(Job.model_validate(json.loads(sys.argv[1])))
answer = {"job": job.model_dump(), "notices": notices, "told": []}
for use in (lambda: load_tokenizer(job.model_name_or_path), lambda: load_model(job.model_name_or_path),
            lambda: read_records(job)):
    try:
        use()
    except SplitFTError as error:
        answer["told"].append(str(error))
print(json.dumps(answer))
"""
RANDOM_NAME = "builtin:gpt2-random"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder; beside it `set`, a data set's, and `other`, the model to fall back on."""
    for name in ("model", "other"):
        save_tiny_model(tmp_path / name, "llama")
        save_to(tmp_path / name)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"text": "the first"}\n{"text": "the second"}\n')
    (tmp_path / "set2").mkdir()
    (tmp_path / "set2" / "train.jsonl").write_text('{"text": "another"}\n')
    return tmp_path


def job_of(folder: Path, **values: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": "org/model",
        "model_fallback": str(folder / "other"),
        "dataset_name": "org/data",
        "dataset_fallback": str(folder / "set2"),
        **values,
    }


def resolve(url: str, home: Path, job: dict[str, Any], **more: str) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = {**clean, "HF_ENDPOINT": url, "HF_HOME": str(home), **more}
    run = run_code(_RESOLVE, json.dumps(job), environment=environment)
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@contextmanager
def silent_port() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def names(answer: dict[str, Any]) -> tuple[str, str]:
    return answer["job"]["model_name_or_path"], answer["job"]["dataset_name"]


def test_a_hub_that_answers_is_used_and_what_it_gave_is_used_later(folder: Path) -> None:
    job, home = job_of(folder), folder / "home"
    online = loaded_once(folder, home, job)
    assert names(online) == ("org/model", "org/data")
    assert online["notices"] == online["told"] == []
    # A part is missing from the cache: the fallback takes its place, and only there.
    next(home.rglob("snapshots/*/model.safetensors")).unlink()
    torn = resolve("http://127.0.0.1:9", home, job)
    assert names(torn) == (str(folder / "other"), "org/data")
    assert torn["told"] == [] and len(torn["notices"]) == 1


@pytest.mark.slow
def test_a_whole_cache_is_used_without_a_hub(folder: Path) -> None:
    job, home = job_of(folder), folder / "home"
    online = loaded_once(folder, home, job)
    assert resolve("http://127.0.0.1:9", home, job, HF_HUB_OFFLINE="1") == online
    with silent_port() as url:
        assert resolve(url, home, job) == online


def loaded_once(folder: Path, home: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Load a job's model and data from a hub, so that they lie in the cache."""
    with serve(Hub({"org/model": folder / "model"}, {"org/data": folder / "set"})) as hub:
        return resolve(hub.url, home, job)


def test_a_wrong_name_is_an_error_and_no_reason_to_fall_back(folder: Path) -> None:
    job = job_of(folder, model_name_or_path="org/none", dataset_name="org/nothing")
    with serve(Hub({"org/model": folder / "model"})) as hub:
        wrong = resolve(hub.url, folder / "home", job)
    assert names(wrong) == ("org/none", "org/nothing") and wrong["notices"] == []
    assert "no such model" in wrong["told"][0] and "org/nothing" in wrong["told"][-1]


@pytest.mark.parametrize(
    "way", ["refused", pytest.param("silent", marks=pytest.mark.slow), "forbidden", "unknown host"]
)
def test_without_a_hub_the_fallbacks_are_taken_and_said(folder: Path, way: str) -> None:
    job = job_of(folder, dataset_config_name="big", dataset_split="test", model_revision="v1")
    job["dataset_revision"] = "v1"
    with silent_port() as mute:
        url = {
            "refused": "http://127.0.0.1:9",
            "silent": mute,
            "forbidden": "http://127.0.0.1:9",
            "unknown host": "http://hub.invalid",
        }[way]
        more = {"HF_HUB_OFFLINE": "1"} if way == "forbidden" else {}
        answer = resolve(url, folder / "home", job, **more)
    assert names(answer) == (str(folder / "other"), str(folder / "set2"))
    used = answer["job"]
    keys = ("model_revision", "dataset_config_name", "dataset_split", "dataset_revision")
    assert [used[key] for key in keys] == ["main", None, "train", "main"]
    model, data = answer["notices"]
    assert "org/model" in model and str(folder / "other") in model
    assert "org/data" in data and "not comparable" in data
    assert ("HF_HUB_OFFLINE" if more else url) in model
    assert answer["told"] == []


def test_a_fallback_has_no_test_split_and_a_part_of_it_is_held_out(folder: Path) -> None:
    changes = {"dataset_test_split": "test", "dataset_fallback": str(folder / "set")}
    answer = resolve("http://127.0.0.1:9", folder / "home", job_of(folder, **changes))
    assert names(answer)[1] == str(folder / "set")
    assert answer["job"]["dataset_test_split"] is None


def test_without_fallbacks_nothing_changes_and_the_error_says_so(folder: Path) -> None:
    job = job_of(folder, model_fallback=None, dataset_fallback=None)
    answer = resolve("http://127.0.0.1:9", folder / "home", job)
    assert names(answer) == ("org/model", "org/data") and answer["notices"] == []
    assert "could not be reached" in answer["told"][0]


def test_what_needs_no_hub_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "splitft.running.fallback.hub_answers", lambda *_, **__: pytest.fail("nothing to ask a hub for")
    )
    for model, data in ((str(folder / "model"), "builtin:sotu"), (RANDOM_NAME, str(folder / "set"))):
        job = Job(
            model_name_or_path=model,
            model_fallback=RANDOM_NAME,
            dataset_name=data,
            dataset_fallback="builtin:sotu",
        )
        resolved, notices = resolve_sources(job)
        assert resolved == job
        assert ["RANDOM WEIGHTS" in notice for notice in notices] == [True] * (model == RANDOM_NAME)


@pytest.mark.parametrize("key", ["model_fallback", "dataset_fallback"])
def test_a_fallback_that_needs_the_hub_itself_is_refused(key: str) -> None:
    job = Job.model_validate({"model_name_or_path": "a/b", "dataset_name": "c/d", key: "openai/other"})
    with pytest.raises(JobError, match=f"{key}: openai/other would need the hub"):
        resolve_sources(job)


@pytest.mark.parametrize(
    ("status", "code", "answer"),
    [
        *[(200, None, True), (307, None, True), (404, None, True), (401, "RepoNotFound", True)],
        *[(403, "GatedRepo", True), (429, None, True), (403, None, False), (407, None, False)],
        *[(502, None, False), (503, "Maintenance", False)],
    ],
)
def test_a_proxys_refusal_is_no_answer_of_the_hub(status: int, code: str | None, answer: bool) -> None:
    assert is_hubs_answer(status, code) is answer

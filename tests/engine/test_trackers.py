"""Trackers, each read back from its offline store: every figure of history.jsonl is there, equal."""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from bad_jobs import QUIET, Settings, assert_one_message, refused, write_job

from cases import rest_slow
from splitft import Callback, Job, run
from splitft.errors import JobError
from splitft.history import read_history

os.environ["TRACKIO_DIR"] = tempfile.mkdtemp()  # Trackio reads it once, when it is imported
Figures = dict[int, dict[str, float]]  # {step: {name: value}}
NAMES = {
    "loss": "train/loss", "train_tokens": "train/tokens", "perplexity": "eval/perplexity",
    "accuracy": "eval/accuracy", "paper_accuracy": "eval/paper_accuracy", "bytes_up": "bytes/up/total",
    "bytes_down": "bytes/down/total", "bytes_adapter_up": "bytes/up/adapter",
    "bytes_adapter_down": "bytes/down/adapter", "round_seconds": "time/round_seconds",
    "evaluation_seconds": "time/evaluation_seconds", "virtual_seconds": "time/virtual_seconds",
}  # fmt: skip
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


def history_figures(out: Path) -> Figures:
    """Return every number of history.jsonl under the name that trackers have for it."""

    def numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from numbers(f"{name}/{key}", item)
        elif isinstance(value, int | float):
            yield name, value

    lines = read_history(out)
    return {
        line.pop("round"): dict(f for key, value in line.items() for f in numbers(NAMES.get(key, key), value))
        for line in lines
    }


def tensorboard_figures(out: Path, tmp_path: Path) -> Figures:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    store = EventAccumulator(str(out / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    assert "output_dir" in make_ndarray(store.Tensors("job/text_summary")[0].tensor_proto).item().decode()
    found: Figures = {}
    for tag in store.Tags()["tensors"]:
        if tag != "job/text_summary":
            for event in store.Tensors(tag):
                found.setdefault(event.step, {})[tag] = make_ndarray(event.tensor_proto).item()
    return found


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: LevelDB's log of blocks, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(parts)
            parts = b""


def wandb_figures(out: Path, tmp_path: Path) -> Figures:
    found: Figures = {}
    ids = set()
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(path):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                keys = {item.key for item in record.run.config.update}
                assert {"output_dir", "lora_r"} <= keys
            if record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
                step = json.loads(items["_step"])
                found[step] = {k: json.loads(v) for k, v in items.items() if not k.startswith("_")}
    assert len(ids) == 1, "a resumed run is the same run"
    return found


def mlflow_figures(out: Path, tmp_path: Path) -> Figures:
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("splitft")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "my-run"
    assert found.data.params["partition.method"] == "iid"
    figures: Figures = {}
    for name in found.data.metrics:
        for metric in client.get_metric_history(found.info.run_id, name):
            figures.setdefault(metric.step, {})[name] = metric.value
    return figures


def trackio_figures(out: Path, tmp_path: Path) -> Figures:
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = set(SQLiteStorage.get_runs(out.parent.name))
    assert SQLiteStorage.get_run_config(out.parent.name, name)["lora_r"] == 4
    extra = ("step", "timestamp")
    logs = SQLiteStorage.get_logs(out.parent.name, name)
    return {line["step"]: {k: v for k, v in line.items() if k not in extra} for line in logs}


READERS: Mapping[str, Callable[[Path, Path], Figures]] = {
    "tensorboard": tensorboard_figures,
    "wandb": wandb_figures,
    "mlflow": mlflow_figures,
    "trackio": trackio_figures,
}


@pytest.fixture
def tracked(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A job with all kinds of figures: devices, cuts that move, ranks at the cut; stores in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return settings | {
        "rounds": 2, "local_steps": 2, "devices": ["phone", "laptop"], "lora_r_cut": 2, "run_name": "my-run",
        "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2], "2": [3, 1]}},
    }  # fmt: skip


class Stops(Callback):
    """Stops a run as Ctrl-C does, in the middle of its last round."""

    def on_step_end(self, job: Job, round_: int, step: int, client: str, loss: float) -> None:
        if round_ == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", rest_slow(TRACKERS, 1))
def test_every_figure_of_the_history_is_in_the_store(
    name: str, tracked: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a run that was interrupted and went on, in the same run of the tracker."""
    needed = "mlflow" if name == "mlflow" else name
    if find_spec(needed) is None:
        pytest.skip(f"{name} is not installed: pip install 'splitft[{name}]'")
    project = {"project": tmp_path.name} if name == "trackio" else {}
    job = Job(**tracked, report_to=name, **project)
    with pytest.raises(KeyboardInterrupt):
        run(job, callbacks=[Stops], console=QUIET)
    result = run(job, console=QUIET, resume=True)
    found, wanted = READERS[name](result.output_dir, tmp_path), history_figures(result.output_dir)
    assert found == wanted
    assert set(found) == {0, 1, 2}
    figures = {"eval/perplexity", "train/loss", "bytes/up/activations", "clients/client-0/cut",
               "clients/client-1/virtual/compute", "time/virtual_seconds", "cuts/client-1"}  # fmt: skip
    assert figures <= set(found[2])
    assert any(key.startswith("truncation_error/") for key in found[2])
    assert all(math.isfinite(value) for step in found.values() for value in step.values())


def test_a_tracker_without_its_library_is_refused_before_anything(
    tracked: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    path = write_job(tracked | {"report_to": ["trackio"]}, tmp_path)
    error = refused(monkeypatch, capsys, "run", path)
    assert_one_message(error, ("report_to trackio", "pip install 'splitft[trackio]'"))
    assert not (tmp_path / "out").exists()


def test_an_unknown_tracker_is_refused_with_the_known_ones(settings: Settings) -> None:
    with pytest.raises(JobError, match="tensorboard"):
        Job(**settings, report_to="tensorbord")


def test_a_tracker_that_fails_stops_the_run_as_any_callback(
    tracked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    if find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed: pip install 'splitft[mlflow]'")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(JobError, match="callback MLflowTracker failed in on_train_begin"):
        run(Job(**tracked, report_to="mlflow"), console=QUIET)

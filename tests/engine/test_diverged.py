"""Training that diverges: the exit code, the last finite state, and what `--resume` then does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cases import rest_slow
from commands import splitft
from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from splitft import DivergedError, Job, run
from splitft.job import dump_job
from splitft.running.parties import make_parties
from splitft.running.prepare import assemble
from splitft.server.server import Server
from splitft.wire.messages import AdapterUp

NAMES = ["anna", "bert", "carl"]
FORMS: dict[str, Settings] = {
    "labels at the server": {},
    "labels at home": {"labels": "client", "tail_blocks": 1},
    "one trunk": {"server_adapter": "shared"},
    "whole models": {"method": "fed_lora"},
    "no exchange": {"method": "local_only"},
    "one place": {"method": "centralized"},
    "median": {"robust_aggregation": "median"},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A job whose first step has learning rate 0, and whose second is far too long."""
    folder = tmp_path_factory.mktemp("diverged")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=20, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama") | {
        "data_files": files, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "cuts": [1, 2, 2], "labels": "server",
        "rounds": 3, "local_steps": 1, "max_grad_norm": 0.0, "learning_rate": 1e30, "eval_every": 1,
        "warmup_steps": 2, "lr_scheduler_type": "constant_with_warmup",
    }  # fmt: skip


def finite(folder: Path) -> bool:
    tensors = [load_file(path) for path in folder.rglob("adapter_model.safetensors")]
    assert tensors
    return all(bool(torch.isfinite(tensor).all()) for each in tensors for tensor in each.values())


@pytest.mark.parametrize("local_steps", [1, 3])  # what is not finite shows in an evaluation, or in training
@pytest.mark.parametrize("form", rest_slow(FORMS, ["labels at the server", "labels at home", "one place"]))
def test_a_run_that_diverges_stops_and_keeps_the_last_finite_state(
    form: str, local_steps: int, setting: Settings, tmp_path: Path
) -> None:
    folder, steps = tmp_path / "run", {"local_steps": local_steps}
    with pytest.raises(DivergedError, match=r"diverged.*lower learning_rate") as stop:
        run(Job(**setting | FORMS[form] | steps, output_dir=str(folder)), console=QUIET)
    assert stop.value.exit_code == 7
    summary = json.loads((folder / "summary.json").read_text())
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert "not finite" in summary["diverged"] and summary["interrupted"]
    assert history and all(line["perplexity"] is not None for line in history)
    assert summary["rounds"] == history[-1]["round"] == (1 if local_steps == 1 else 0)
    assert finite(folder)


def test_the_command_exits_with_its_code_and_recommends_no_adapter(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    dump_job(Job(**setting, output_dir=str(folder)), tmp_path / "job.yaml")
    assert splitft("run", tmp_path / "job.yaml", monkeypatch=monkeypatch) == 7
    told = capsys.readouterr()
    shown = " ".join((told.out + told.err).split())
    assert "training has diverged" in shown and "not finite" in shown
    assert "Load it with peft" not in shown and "--resume goes on" not in shown
    assert "last finite" in shown

    # The same job diverges again: --resume says so at once, and how to go on.
    before = sorted(folder.rglob("*"))
    assert splitft("run", folder / "job.yaml", "--resume", monkeypatch=monkeypatch) == 7
    again = " ".join(capsys.readouterr().err.split())
    assert "would diverge again" in again and f"adapter_name_or_path={folder}/adapter" in again
    assert sorted(folder.rglob("*")) == before
    assert splitft("report", folder, monkeypatch=monkeypatch) == 0
    assert "1 of 1 runs diverged" in (folder / "report.html").read_text()


@pytest.mark.parametrize("codec", rest_slow(["none", "int8"], 1))
@pytest.mark.parametrize("labels", ["server", "client"])
def test_over_a_network_the_server_ends_with_the_same_error(
    labels: str, codec: str, setting: Settings, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match="diverged"):
        together(setting | {"labels": labels, "codec": codec}, tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "finite" in summary["diverged"] and finite(tmp_path / "run" / "adapter")


def test_a_client_whose_update_is_not_finite_is_left_out_by_a_network(
    setting: Settings, tmp_path: Path
) -> None:
    """The others go on, to the adapter of a run without it."""
    said: list[str] = []

    def tamper(message: Any) -> list[Any]:
        if isinstance(message, AdapterUp):
            message = replace(message, values=tuple(values * float("nan") for values in message.values))
        return [message]

    settings = setting | {"learning_rate": 5e-3}
    folder = together(settings, tmp_path, {"carl": tamper}, said)
    assert "not finite" in said[0]
    summary = json.loads((folder / "summary.json").read_text())
    assert not summary["diverged"] and not summary["interrupted"] and finite(folder)


def test_an_average_that_is_not_finite_is_not_adopted(setting: Settings) -> None:
    start = assemble(Job(**setting), QUIET)
    server = make_parties(start).server
    assert isinstance(server, Server)
    server.hand_out(1, start.cuts)
    before = dict(server.adapter)
    trained = {name: trunk.update({name: 5}) for name, trunk in server.worker.trunks.items()}
    trained["bert"].values[0][0] = float("inf")
    with pytest.raises(DivergedError, match="the average of the round is not finite"):
        server.coordinator.aggregate(trained)
    assert all(
        torch.equal(server.adapter[b][name], t) for b, own in before.items() for name, t in own.items()
    )

"""Batches sent in parts: the gradients of whole batches, wherever the clients are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import final_adapter
from wire_record import record_messages

from cases import rest_slow
from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from run_files import adapter_of
from splitft import Job, run
from splitft.data import split_rows
from splitft.errors import JobError
from splitft.server.parts import best_parts, step_time
from splitft.wire.messages import Activations, Gradients

NAMES = ["anna", "bert", "carl"]
MODES: dict[str, Settings] = {
    "labels at the server": {},
    "labels at home": {"labels": "client", "tail_blocks": 1},
    "shared": {"server_adapter": "shared"},
    "accumulated": {"gradient_accumulation_steps": 2, "codec": "int8"},
    "front frozen": {
        "train_front": False,
        "adapter_name_or_path": None,
        "labels": "client",
        "tail_blocks": 1,
    },
    "differences": {"codec": "delta"},
    "together": {"server_batch_tokens": 9999},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("parts")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=30, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=4, hidden_size=64) | {
        "data_files": files, "rounds": 2, "local_steps": 2, "cuts": [1, 2, 2], "labels": "server",
        "max_eval_samples": None, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "warmup_steps": 0, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "mode", rest_slow([mode for mode in MODES if mode != "together"], ["labels at home"])
)
def test_over_connections_as_in_one_process(mode: str, setting: Settings, tmp_path: Path) -> None:
    settings = setting | MODES[mode] | {"micro_batches": 3}
    here = run(Job(**settings, output_dir=str(tmp_path / "here")), console=QUIET).output_dir
    there = together(settings, tmp_path / "there")
    assert adapter_of(here) == adapter_of(there)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (here, there)]
    assert summaries[0]["bytes"] == summaries[1]["bytes"]


@pytest.mark.parametrize(
    "mode", rest_slow([mode for mode in MODES if mode not in ("accumulated", "differences")], 2)
)
@pytest.mark.parametrize("parts", rest_slow([4, 2], 1))
def test_the_gradients_are_those_of_whole_batches(
    parts: int, mode: str, setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = setting | MODES[mode] | {"rounds": 1, "local_steps": 1}
    found = []
    for number in ("off", parts):
        with monkeypatch.context() as patch:
            wire = record_messages(patch)
            job = Job(**settings, micro_batches=number, output_dir=str(tmp_path / str(number)))
            adapter = final_adapter(run(job, console=QUIET))
            down = [(c, m) for _, c, m, _ in wire.sent if isinstance(m, Gradients)]
            norms = {client: m.grad_norms for client, m in down if m.grad_norms is not None}
            losses = {name: sum(m.loss for client, m in down if client == name) for name in NAMES}
            sent = [m for _, _, m, _ in wire.sent if isinstance(m, Activations) and m.train]
            found.append((adapter, norms, losses, len(sent)))
    (whole, whole_norms, whole_losses, count), (adapter, norms, losses, more) = found
    assert more == parts * count == parts * len(NAMES)
    for name in NAMES:
        assert losses[name] == pytest.approx(whole_losses[name], rel=1e-5)
        assert torch.allclose(norms[name], whole_norms[name], rtol=1e-4)
    assert all(torch.allclose(adapter[name], tensor, atol=2e-4) for name, tensor in whole.items())


def test_no_part_is_empty(setting: Settings, tmp_path: Path) -> None:
    files = dict(setting["data_files"], bert=str(write_rows(tmp_path / "few.txt", rows=3, seed=9)))
    settings = setting | {"data_files": files, "micro_batches": 4}
    here = run(Job(**settings, output_dir=str(tmp_path / "here")), console=QUIET).output_dir
    assert adapter_of(here) == adapter_of(together(settings, tmp_path / "there"))


def test_the_first_rounds_times_decide(setting: Settings, tmp_path: Path) -> None:
    settings = setting | {"micro_batches": "auto", "rounds": 3}
    folder = together(settings, tmp_path)
    assert len((folder / "history.jsonl").read_text().splitlines()) == 4


def test_the_virtual_clock_knows_no_overlap(setting: Settings, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="counts the parts"):
        Job(**setting, micro_batches=2, devices=["laptop"] * 3, output_dir=str(tmp_path))


@given(st.lists(st.integers(1, 99), min_size=1, max_size=20), st.data())
def test_parts_hold_every_row_once_and_are_nearly_equal(lengths: list[int], data: Any) -> None:
    chosen = np.array(data.draw(st.permutations(range(len(lengths)))))
    parts = split_rows(chosen, np.array(lengths), data.draw(st.integers(1, len(lengths))))
    assert sorted(int(i) for part in parts for i in part) == list(range(len(lengths)))
    sizes = [len(part) for part in parts]
    assert min(sizes) > 0 and max(sizes) - min(sizes) <= 1
    if len(parts) > 1:
        flat = [lengths[i] for part in parts for i in part]
        assert flat == sorted(flat)


seconds = st.floats(0, 10)


@given(st.integers(1, 100), seconds, seconds, seconds, st.integers(1, 20))
def test_the_number_of_parts_is_never_worse_than_one(
    most: int, client: float, link: float, server: float, clients: int
) -> None:
    parts = best_parts(most, client, link, server, clients)
    assert 1 <= parts <= most
    times = (client, link, server, clients)
    assert step_time(parts, *times) <= step_time(1, *times)


def test_parts_for_slow_links_and_none_for_what_is_quick() -> None:
    assert best_parts(8, 1.0, 1.0, 0.05, 5) >= 4
    assert best_parts(8, 0.004, 0.0, 0.001, 5) == 1

"""A client's part of the model: each weight is read once, also where its cut moves, and computes the same."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from reference import make_setting
from splitft import Job
from splitft.client.client import Client
from splitft.engines.network.control import Welcome
from splitft.job.told import told_job
from splitft.lora.initial import new_adapter
from splitft.model.split_model import SplitModel, StepId
from splitft.running.client_setup import ClientSetup
from splitft.weights import load
from splitft.wire.codecs.registry import network_job

IDS = torch.arange(4, 28)[None]


def made(setting: dict[str, Any], cut: int, console: Console, **changes: Any) -> tuple[ClientSetup, Client]:
    policy = {"cut_policy": {"method": "makespan"}}
    job = Job(**setting | policy | {"cuts": cut, "data_files": None} | changes)
    text, optional = told_job(network_job(job).model_copy(update={"dtype": "float32"}))
    data = Path(setting["data_files"])
    setup = ClientSetup("anna", data, None, None, console, lambda address: pytest.fail())
    targets = tuple(job.lora_target_modules or ())
    client = setup.make(
        Welcome(job=text, targets=targets, server_inputs="dummy_ids", optional=optional)
    ).client
    assert isinstance(client, Client)
    return setup, client


def front(model: SplitModel, start: Any) -> torch.Tensor:
    adapter = start or new_adapter(model.slots.layout, 4, 0, "gaussian")
    model.bind(adapter)
    hidden: torch.Tensor = model.run(0, 3, StepId("anna", 1, 0, 0, train=True), input_ids=IDS)
    return hidden


@pytest.mark.parametrize("changes", [
    {"labels": "client", "tail_blocks": 1}, {"labels": "server", "gradient_checkpointing": True},
    {"labels": "server", "init_lora_weights": "pissa", "lora_dropout": 0.1},
])  # fmt: skip
def test_a_cut_that_moves_loads_the_missing_blocks_alone(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = make_setting(tmp_path, "llama") | {
        "adapter_name_or_path": None, "clients": 1, "network": {"clients": ["anna"]}
    }  # fmt: skip
    read: Counter[str] = Counter()
    from_folder = load._from_folder

    def counting(*arguments: Any) -> Any:
        model = from_folder(*arguments)
        read.update(name for name, _ in model.named_parameters())
        return model

    monkeypatch.setattr(load, "_from_folder", counting)
    console = Console(file=io.StringIO(), width=300)
    setup, moved = made(setting, 1, console, **changes)
    blocks = {int(name.split(".")[2]) for name in read if ".layers." in name}
    assert blocks == ({0, 3} if changes["labels"] == "client" else {0})
    setup.need(moved, 3)
    assert max(read.values()) == 1 and {f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)} <= set(read)
    setup.need(moved, 2)  # nothing is lacking
    assert max(read.values()) == 1
    # The same as where all blocks are loaded at once.
    _, whole = made(setting, 3, console, **changes)
    starts = [dict(client.model.slots.start) for client in (moved, whole)]
    assert torch.equal(front(moved.model, starts[0]), front(whole.model, starts[1]))
    assert moved.model.slots.layout == whole.model.slots.layout
    assert {k: v for k, v in setup.facts().items() if "block 3" not in k}.keys() >= {
        "block 0",
        "block 1",
        "block 2",
    }
    # The loss is in chunks where the tail is here, and nothing is noted.
    assert (moved.model._head is not None) == (changes["labels"] == "client")
    assert "Note:" not in console.file.getvalue()  # type: ignore[attr-defined]

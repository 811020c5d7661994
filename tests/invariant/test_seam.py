"""The seam of the server: a run is the same with copies of all that crosses, and with late answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moving import UP_AND_DOWN
from runs import assert_same_bits, final_adapter, trained
from torch import Tensor

from cases import rest_slow
from splitft.history import RoundRecord
from splitft.server.seam import GlobalBlocks, TrunkLoad, TrunkMoments, TrunkUpdate
from splitft.server.worker import TrunkWorker
from splitft.wire.encoding import Wire
from splitft.wire.messages import Message, Metrics, decode, encode

SEAM: Wire[Any] = Wire((GlobalBlocks, TrunkLoad, TrunkMoments, TrunkUpdate), max_text=64)
HOME = {"labels": "client", "tail_blocks": 1}
LOW = {
    "lora_r_cut": 2,
    "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2, 3, 4], "2": [4, 1, 3, 2], "3": 3}},
}
MODES: dict[str, dict[str, Any]] = {
    "per_client": {"cuts": [1, 3, 2, 2], "lora_dropout": 0.1},
    "shared": {"server_adapter": "shared", "cuts": [1, 3, 2, 2], "gradient_accumulation_steps": 2},
    "labels at home": HOME | {"cut_policy": UP_AND_DOWN},
    "labels at home, shared": HOME | {"server_adapter": "shared", "cuts": [1, 3, 2, 2]},
    "cuts move": LOW | {"aggregation": "exact", "clients_per_round": 3},
    "cuts move, shared": LOW | {"server_adapter": "shared"},
    "front frozen": {"train_front": False, "adapter_name_or_path": None},
    "whole models": {"method": "fed_lora"},
}  # fmt: skip


class Far:
    """A trunk worker in another place: what crosses is what its bytes say, and no tensor is shared."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._worker = TrunkWorker(*args, **kwargs)

    def load(self, start: GlobalBlocks, loads: Mapping[str, TrunkLoad]) -> dict[str, TrunkMoments]:
        return copies(SEAM, self._worker.load(*copies(SEAM, {"": start}).values(), copies(SEAM, loads)))

    def adopt(self, moments: Mapping[str, TrunkMoments]) -> None:
        self._worker.adopt(copies(SEAM, moments))

    def step(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        came = {client: decode(b"".join(encode(message))) for client, message in messages.items()}
        replies = self._worker.step(came)
        return {client: decode(b"".join(encode(reply))) for client, reply in replies.items()}

    def take_norms(self, norms: Mapping[str, Tensor]) -> None:
        self._worker.take_norms({client: each.clone() for client, each in norms.items()})

    def collect(self) -> dict[str, TrunkUpdate]:
        return copies(SEAM, self._worker.collect())

    def training_losses(self) -> dict[str, tuple[float, int]]:
        return self._worker.training_losses()

    def take_metrics(self) -> dict[str, Metrics]:
        return self._worker.take_metrics()

    @property
    def first_metrics(self) -> dict[str, Metrics]:
        return self._worker.first_metrics


class Late(Far):
    """Answers nothing at once; when asked again, one client after another, from the last to the first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: dict[str, Message] = {}

    def step(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        if messages:
            self._held |= super().step(messages)
            return {}
        return dict([self._held.popitem()])


def copies(wire: Wire[Any], messages: Mapping[str, Any]) -> dict[str, Any]:
    return {key: wire.decode(b"".join(wire.encode(message))) for key, message in messages.items()}


def timeless(records: Sequence[RoundRecord]) -> list[RoundRecord]:
    return [replace(record, round_seconds=0.0, evaluation_seconds=0.0) for record in records]


@pytest.mark.parametrize("worker", rest_slow([Late, Far], 1))
@pytest.mark.parametrize("mode", rest_slow(MODES, ["labels at home, shared"]))
def test_a_run_is_the_same_whatever_lies_between_coordinator_and_worker(
    mode: str, worker: type[Far], settings_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("llama") | {"eval_every": 2, "max_eval_samples": 4, "save_every": 0}
    _, here = trained(settings, tmp_path / "here", **MODES[mode])
    monkeypatch.setattr("splitft.server.server.TrunkWorker", worker)
    _, there = trained(settings, tmp_path / "there", **MODES[mode])
    assert_same_bits(final_adapter(there), final_adapter(here))
    assert timeless(there.history) == timeless(here.history)
    assert there.summary["bytes"] == here.summary["bytes"]

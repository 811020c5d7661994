"""What a message may carry, how its bytes are counted, and what the history records."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import final_adapter, losses, result_of, same
from wire_record import Wire

from splitft.wire.messages import Activations, AdapterDown, AdapterUp, Metrics, TailGradients, TrunkOutput


@pytest.mark.parametrize("changes", [
    {"cuts": [1, 3]},
    {"cuts": [1, 3], "server_adapter": "shared", "gradient_accumulation_steps": 2, "lora_r_cut": 2},
    {"cuts": [1, 2], "labels": "client", "tail_blocks": 1},
], ids=["per_client", "shared", "labels at home"])  # fmt: skip
def test_bytes_are_those_of_the_encoded_messages_which_carry_the_whole_run(
    changes: dict[str, Any], llama: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = llama | {"clients": 2, "rounds": 2, "local_steps": 2, "eval_every": 1, **changes}
    by_reference = result_of(settings, tmp_path / "reference")
    wire = request.getfixturevalue("wire")
    result = result_of(settings, tmp_path / "wire")
    assert losses(result) == losses(by_reference)
    assert same(final_adapter(result), final_adapter(by_reference))

    for record in result.history:
        bytes_, adapters = Counter[str](), Counter[str]()
        for way, _, message, size in wire.sent:
            if message.round == record.round:
                bytes_[way] += size
                if isinstance(message, AdapterDown | AdapterUp):
                    adapters[way] += sum(4 * values.numel() for values in message.values)
        assert (record.bytes_up, record.bytes_down) == (bytes_["up"], bytes_["down"])
        assert (record.bytes_adapter_up, record.bytes_adapter_down) == (adapters["up"], adapters["down"])
        assert {way: sum(kinds.values()) for way, kinds in record.bytes.items()} == bytes_
    assert result.summary["bytes_up"] == sum(size for way, _, _, size in wire.sent if way == "up")


def test_no_label_leaves_home(llama: dict[str, Any], tmp_path: Path, wire: type[Wire]) -> None:
    settings = llama | {
        "clients": 2, "rounds": 1, "local_steps": 1, "warmup_steps": 0, "cuts": [1, 2], "eval_every": 1,
    }  # fmt: skip
    result_of(settings, tmp_path / "home", labels="client", tail_blocks=1)
    at_home = Counter(type(message) for _, _, message, _ in wire.sent)
    assert at_home[TrunkOutput] > at_home[TailGradients] == 2
    assert at_home[Metrics]  # only sums come back of an evaluation
    for _, _, message, _ in wire.sent:
        if isinstance(message, Activations):
            assert message.labels is None
            assert message.input_ids is None
        ids = [v for v in vars(message).values() if isinstance(v, torch.Tensor) and not v.is_floating_point()]
        assert ids == []
    wire.sent.clear()
    result_of(settings, tmp_path / "server")
    assert all(m.labels is not None for _, _, m, _ in wire.sent if isinstance(m, Activations))


HISTORY_KEYS = {
    "round", "cohort", "cuts", "loss", "perplexity", "accuracy", "clients", "bytes_up", "bytes_down",
    "bytes_adapter_up", "bytes_adapter_down", "bytes", "round_seconds", "evaluation_seconds",
    "paper_accuracy", "virtual_seconds", "waited_for", "train_tokens", "queued_behind", "truncation_error",
    "eval_rows", "held_out_rows", "perplexity_interval", "perplexity_change", "change_interval",
    "accuracy_change", "metrics", "epsilon",
}  # fmt: skip
CLIENT_KEYS = {
    "cut", "loss", "perplexity", "accuracy", "paper_accuracy", "train_tokens", "eval_tokens", "virtual",
    "perplexity_change", "metrics", "private_steps", "epsilon",
}  # fmt: skip


def test_history_has_one_documented_line_a_round(gpt2: dict[str, Any], tmp_path: Path) -> None:
    settings = gpt2 | {"clients": 2, "rounds": 3, "local_steps": 2, "cuts": [1, 2], "eval_every": 2}
    result = result_of(settings, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert lines == [json.loads(record.to_json()) for record in result.history]
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert all(line.keys() == HISTORY_KEYS for line in lines)
    assert all(client.keys() == CLIENT_KEYS for line in lines for client in line["clients"].values())
    assert [line["loss"] is None for line in lines] == [True, False, False, False]
    assert [line["perplexity"] is None for line in lines] == [False, True, False, False]
    assert all(line["cuts"] == {"client-0": 1, "client-1": 2} for line in lines)
    first = lines[0]
    assert first["cohort"] == []
    assert first["bytes_adapter_up"] == 0 < first["bytes_adapter_down"]
    for line in lines[1:]:
        tokens = [client["train_tokens"] for client in line["clients"].values()]
        per_client = [client["loss"] for client in line["clients"].values()]
        mean = sum(loss * n for loss, n in zip(per_client, tokens, strict=True)) / sum(tokens)
        assert line["loss"] == pytest.approx(mean)
    for line in (first, lines[2], lines[3]):
        clients = line["clients"].values()
        total = sum(client["eval_tokens"] for client in clients)
        nll = sum(math.log(client["perplexity"]) * client["eval_tokens"] for client in clients)
        right = sum(client["accuracy"] * client["eval_tokens"] for client in clients)
        assert line["perplexity"] == pytest.approx(math.exp(nll / total))
        assert line["accuracy"] == pytest.approx(right / total)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary))
    assert summary["perplexity"] == lines[3]["perplexity"]
    assert summary["bytes_up"] == sum(line["bytes_up"] for line in lines)

"""What a whole run promises: dropout, seeds, precision, and forms of rows and blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import final_adapter, losses, result_of, same
from wire_record import Wire

from reference import federated_lora, make_hybrid_setting, make_setting
from splitft import Job
from splitft.wire.messages import Activations, AdapterUp


def test_dropout_does_not_know_where_the_cut_is(tmp_path: Path) -> None:
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1)
    settings = make_setting(tmp_path, "gpt2", **rates) | {
        "clients": 2, "rounds": 2, "local_steps": 2, "lora_dropout": 0.1, "cuts": [1, 3],
    }  # fmt: skip
    first = result_of(settings, tmp_path / "first")
    for number, changes in enumerate((
        {"cuts": [2, 1]},
        {"cuts": [2, 1], "gradient_checkpointing": True},
        {"cuts": [1, 2], "labels": "client", "tail_blocks": 1},
        {"cuts": 1, "labels": "client", "tail_blocks": 2, "gradient_checkpointing": True},
    )):  # fmt: skip
        other = result_of(settings, tmp_path / str(number), **changes)
        assert losses(other) == losses(first)
        assert same(final_adapter(other), final_adapter(first))
    without = result_of(settings, tmp_path / "without", lora_dropout=0.0)
    assert losses(without)[1] != losses(first)[1]
    assert first.history[0].perplexity == without.history[0].perplexity  # evaluation drops nothing


def test_base_dropout_is_active_in_training(gpt2: dict[str, Any], tmp_path: Path) -> None:
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.3)
    dropping = make_setting(tmp_path, "gpt2", **rates)
    short = {"clients": 2, "rounds": 1, "local_steps": 1, "cuts": 2, "warmup_steps": 0}
    with_, without = (
        result_of(dropping | short, tmp_path / "with"),
        result_of(gpt2 | short, tmp_path / "without"),
    )
    assert with_.history[0].perplexity == without.history[0].perplexity  # the same model
    assert losses(with_)[1] != losses(without)[1]


def test_the_same_job_gives_the_same_bits_and_another_seed_does_not(
    llama: dict[str, Any], tmp_path: Path
) -> None:
    settings = llama | {
        "clients": 3, "clients_per_round": 2, "rounds": 2, "local_steps": 2, "cuts": [1, 2, 3],
        "lora_dropout": 0.1, "lora_r_cut": 2, "adapter_name_or_path": None,
    }  # fmt: skip
    first, again = result_of(settings, tmp_path / "1"), result_of(settings, tmp_path / "2")
    assert losses(first) == losses(again)
    assert same(final_adapter(first), final_adapter(again))
    clocks = ("round_seconds", "evaluation_seconds")
    for one, two in zip(first.history, again.history, strict=True):
        left, right = json.loads(one.to_json()), json.loads(two.to_json())
        assert [left.pop(clock) >= 0 for clock in clocks] == [right.pop(clock) >= 0 for clock in clocks]
        assert left == right
    other = result_of(settings, tmp_path / "3", seed=7)
    assert not same(final_adapter(first), final_adapter(other))
    assert losses(first) != losses(other)


# Precision, other forms of rows, other kinds of blocks


def test_a_bf16_base_keeps_float32_adapters_and_learns_one_batch(
    llama: dict[str, Any], tmp_path: Path, wire: type[Wire]
) -> None:
    settings = llama | {
        "bf16": True, "clients": 1, "rounds": 6, "local_steps": 5, "cuts": 2, "max_train_samples": 4,
        "per_device_train_batch_size": 4, "learning_rate": 0.02, "adapter_name_or_path": None,
    }  # fmt: skip
    result = result_of(settings, tmp_path / "run")
    means = [record.loss for record in result.history[1:]]
    assert means[-1] < means[0] - 1
    adapter = final_adapter(result)
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert any(not torch.equal(t, t.bfloat16().float()) for t in adapter.values())
    hidden = {m.hidden.dtype for _, _, m, _ in wire.sent if isinstance(m, Activations)}
    assert hidden == {torch.bfloat16}
    assert {v.dtype for _, _, m, _ in wire.sent if isinstance(m, AdapterUp) for v in m.values} == {
        torch.float32
    }
    short = {"rounds": 2, "local_steps": 2}
    at_two, at_one = (result_of(settings | short, tmp_path / str(cut), cuts=cut) for cut in (2, 1))
    assert losses(at_two) == losses(at_one)
    assert same(final_adapter(at_two), final_adapter(at_one))


def write_prompts(folder: Path) -> dict[str, Any]:
    path = folder / "rows.jsonl"
    rows = [
        {"prompt": f"the people of state {i}", "completion": " made a law " * (1 + i % 5)} for i in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {"data_files": str(path)}


@pytest.mark.parametrize("rows", [
    lambda folder: {"packing": True, "max_length": 16},
    write_prompts,
    lambda folder: write_prompts(folder) | {"completion_only_loss": False},
    lambda folder: write_prompts(folder) | {"packing": True, "max_length": 16},
], ids=["packed", "completions", "prompts too", "packed completions"])  # fmt: skip
def test_other_forms_of_rows_train_as_on_whole_models(
    rows: Callable[[Path], dict[str, Any]], gpt2: dict[str, Any], tmp_path: Path
) -> None:
    settings = gpt2 | {"clients": 2, "rounds": 2, "local_steps": 2, "cuts": [1, 3], **rows(tmp_path)}
    wanted, history = federated_lora(Job(**settings))
    result = result_of(settings, tmp_path / "run")
    assert same(final_adapter(result), wanted)
    assert [record.loss is not None for record in result.history] == [False, True, True]
    for record, wanted_losses in zip(result.history[1:], history, strict=True):
        assert {n: c.loss for n, c in record.clients.items()} == pytest.approx(wanted_losses, rel=1e-6)


def test_blocks_without_a_target_module_may_lie_anywhere(tmp_path: Path) -> None:
    """In a hybrid model only some blocks have the layers that are adapted; a front may have none."""
    settings = make_hybrid_setting(tmp_path, rounds=2, max_grad_norm=1e-3, learning_rate=0.01)
    whole = result_of(settings, tmp_path / "whole", cuts=3)
    assert len(final_adapter(whole)) == 2 * 2
    assert all(tensor.any() for tensor in final_adapter(whole).values())
    for number, changes in enumerate((
        {"cuts": [1, 2]},
        {"cuts": 1, "gradient_checkpointing": True},
        {"cuts": [1, 2], "labels": "client", "tail_blocks": 1},
    )):  # fmt: skip
        other = result_of(settings, tmp_path / str(number), **changes)
        assert losses(other) == losses(whole)
        assert same(final_adapter(other), final_adapter(whole))
    result_of(settings, tmp_path / "shared", cuts=[1, 2], server_adapter="shared", lora_r_cut=2)

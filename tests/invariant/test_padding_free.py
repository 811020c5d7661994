"""Padding-free batches: a batch is one row of all its samples, and nothing else changes, not even a byte."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from plans import DEVICES, assert_is_the_run
from rich.console import Console
from runs import assert_same_bits, final_adapter
from torch import Tensor
from wire_record import record_messages

from cases import rest_slow
from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from splitft import Job, RunResult, run
from splitft.job import load_job
from splitft.model.window import run_blocks
from splitft.running.model import wants_padding_free
from splitft.tools.plan.command import plan_command
from splitft.wire.messages import Activations, Gradients
from tiny import MODEL_TYPES

FEW = {"rounds": 1, "local_steps": 1, "eval_every": 1, "max_eval_samples": 5, "warmup_steps": 0}
CLIENTS = {"clients": 3, "cuts": [3, 1, 2], "partition": {"method": "iid"}}
ABLE = [kind for kind in MODEL_TYPES if kind not in ("opt", "gpt_neo")]
MODES: dict[str, Settings] = {
    "shared": {"server_adapter": "shared"},
    "labels at home": {"labels": "client", "tail_blocks": 2},
    "two steps in one": {"gradient_accumulation_steps": 2},
    "in parts": {"micro_batches": 2, "per_device_train_batch_size": 4},
    "checkpointing": {"gradient_checkpointing": True},
    "eager": {"attn_implementation": "eager"},
    "the model's own loss": {"loss_chunk_tokens": 0},
    "front frozen": {"train_front": False, "adapter_name_or_path": None},
    "one row": {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1},
    "bfloat16": {"bf16": True},
    "whole models": {"method": "fed_lora"},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Settings]:
    return {
        kind: make_setting(tmp_path_factory.mktemp(kind), kind, num_hidden_layers=6) | CLIENTS | FEW
        for kind in MODEL_TYPES
    }


class Forms:
    """How batches were computed: (rows, whether there was a mask) of every call of the model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[int, bool]] = []

        def noting(*args: Any, **inputs: Any) -> Any:
            given = inputs["hidden"] if inputs.get("hidden") is not None else inputs["input_ids"]
            self.seen.append((given.shape[0], "attention_mask" in inputs))
            return run_blocks(*args, **inputs)

        monkeypatch.setattr("splitft.model.split_model.run_blocks", noting)

    def take(self) -> set[tuple[int, bool]]:
        seen, self.seen = set(self.seen), []
        assert seen
        return seen


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> Forms:
    return Forms(monkeypatch)


def both(
    settings: Settings, folder: Path, forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[RunResult, list[Any]]]:
    """Run a job padded and without padding, from its file; return results and messages of training."""
    found = []
    for free in (False, True):
        file = folder / f"{free}.json"
        file.write_text(json.dumps({**settings, "padding_free": free, "output_dir": str(folder / f"{free}")}))
        with monkeypatch.context() as patch:
            wire = record_messages(patch)
            result = run(load_job(file), console=QUIET)
            assert not result.summary["notices"]
            sent = [m for _, _, m, _ in wire.sent if isinstance(m, Activations | Gradients)]
        seen = forms.take()
        assert all(masked != free for _, masked in seen)
        if free:
            assert seen == {(1, False)}
        found.append((result, sent))
    return found


def assert_close(one: Tensor, other: Tensor, most: float) -> None:
    assert one.shape == other.shape
    assert float((one.float() - other.float()).norm()) <= most * float(other.float().norm())


def assert_equal_but_for_rounding(found: list[tuple[RunResult, list[Any]]], most: float) -> None:
    (padded, wanted), (flat, sent) = found
    assert flat.summary["bytes"] == padded.summary["bytes"]
    for one, other in zip(flat.history, padded.history, strict=True):
        assert one.perplexity == pytest.approx(other.perplexity, rel=most)
        if most < 1e-3:
            assert (one.accuracy, one.paper_accuracy) == (other.accuracy, other.paper_accuracy)
        for name, client in other.clients.items():
            if client.loss is not None:
                assert one.clients[name].loss == pytest.approx(client.loss, rel=most)
    assert len(sent) == len(wanted)
    for message, before in zip(sent, wanted, strict=True):
        if isinstance(message, Activations):
            assert message.lengths == before.lengths and len(message.lengths) > 0
            assert_close(message.hidden, before.hidden, most)
            if message.labels is not None:
                assert torch.equal(message.labels, before.labels)
        else:
            assert message.loss == pytest.approx(before.loss, rel=most)
            assert_close(message.gradient, before.gradient, most)
            if before.grad_norms is not None:
                assert_close(message.grad_norms, before.grad_norms, most)


@pytest.mark.parametrize("kind", rest_slow(ABLE, ["gpt2", "gemma3_text"]))
def test_losses_gradients_and_metrics_are_those_of_padded_rows(
    kind: str, settings: dict[str, Settings], tmp_path: Path, forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = both(settings[kind], tmp_path, forms, monkeypatch)
    assert any(len(set(m.lengths)) > 1 for m in found[0][1] if isinstance(m, Activations))
    assert_equal_but_for_rounding(found, 1e-5)


@pytest.mark.parametrize(
    "mode",
    rest_slow(MODES, ["labels at home"]),
)
def test_in_every_mode(
    mode: str,
    settings: dict[str, Settings],
    tmp_path: Path,
    forms: Forms,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = both(settings["llama"] | MODES[mode], tmp_path, forms, monkeypatch)
    assert_equal_but_for_rounding(found, 5e-2 if mode == "bfloat16" else 1e-5)


def test_labels_of_completions_alone(
    tmp_path: Path, forms: Forms, settings: dict[str, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples begin, and some end, without a label."""
    words = [(i % 5 + 1, i % 7 + 1) for i in range(60)]
    rows = [
        {"prompt": f"law {number} " + "we the " * asked, "completion": "people " * said}
        for number, (asked, said) in enumerate(words)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = settings["gpt2"] | {"data_files": str(tmp_path / "rows.jsonl")}
    assert_equal_but_for_rounding(both(job, tmp_path, forms, monkeypatch), 1e-5)


@pytest.mark.parametrize("kind", rest_slow(["opt", "gpt_neo"], 1))
def test_a_model_that_cannot_is_computed_padded_and_says_so(
    kind: str, settings: dict[str, Settings], tmp_path: Path, forms: Forms
) -> None:
    """OPT makes its mask without regard to positions; GPT-Neo has one of no more tokens than positions."""
    told = Console(file=io.StringIO(), width=400)
    job = settings[kind]
    asked = run(Job(**job | {"padding_free": True}, output_dir=str(tmp_path / "asked")), console=told)
    assert all(masked for _, masked in forms.take())
    (notice,) = asked.summary["notices"]
    assert notice.startswith("rows are padded, in spite of padding_free") and notice in told.file.getvalue()
    plain = run(Job(**job, output_dir=str(tmp_path / "plain")), console=QUIET)
    assert_same_bits(final_adapter(asked), final_adapter(plain))
    auto = run(Job(**job | {"padding_free": "auto"}, output_dir=str(tmp_path / "auto")), console=QUIET)
    assert_same_bits(final_adapter(auto), final_adapter(plain))
    assert auto.summary["notices"] == []


def test_by_default_uneven_rows_are_not_padded(
    settings: dict[str, Settings], tmp_path: Path, forms: Forms
) -> None:
    """The same bits as with `true`, at every cut those of whole models, and in a run that goes on."""
    job = {**settings["llama"], "rounds": 2}
    del job["padding_free"]
    auto = run(Job(**job, output_dir=str(tmp_path / "auto")), console=QUIET)
    assert forms.take() == {(1, False)}
    assert load_job(tmp_path / "auto" / "job.yaml").padding_free is True
    again = run(Job(**job, output_dir=str(tmp_path / "auto")), console=QUIET, resume=True)
    assert again.history == auto.history
    for name, changes in {"true": {"padding_free": True}, "whole": {"method": "fed_lora"}}.items():
        other = run(Job(**job | changes, output_dir=str(tmp_path / name)), console=QUIET)
        assert_same_bits(final_adapter(other), final_adapter(auto))


EVEN: list[Settings] = [
    {"packing": True},
    {"group_by_length": True},
    {"per_device_train_batch_size": 1},
    {"server_batch_tokens": "auto"},
    {"padding_free": False},
]


@pytest.mark.parametrize("changes", EVEN, ids=lambda changes: next(iter(changes)))
def test_by_default_even_rows_are_padded(changes: Settings) -> None:
    job = {"model_name_or_path": "builtin:smollm2-135m", "dataset_name": "builtin:sotu", "use_cpu": True}
    assert wants_padding_free(Job(**job))
    assert not wants_padding_free(Job(**job | changes))


def test_dropout_is_the_same_at_every_cut_and_each_time(tmp_path: Path) -> None:
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1)
    job = make_setting(tmp_path, "gpt2", **rates) | FEW | {
        "clients": 2, "lora_dropout": 0.1, "padding_free": True, "local_steps": 2,
    }  # fmt: skip
    first, *others = (
        run(Job(**job, cuts=cuts, output_dir=str(tmp_path / str(i))), console=QUIET)
        for i, cuts in enumerate(([1, 3], [2, 1], [1, 3]))
    )
    for other in others:
        assert_same_bits(final_adapter(other), final_adapter(first))
    calm = run(Job(**job | {"lora_dropout": 0.0}, cuts=1, output_dir=str(tmp_path / "calm")), console=QUIET)
    assert calm.history[1].clients["client-0"].loss != first.history[1].clients["client-0"].loss


def test_a_plan_has_the_bytes_and_the_seconds(settings: dict[str, Settings], tmp_path: Path) -> None:
    job = settings["llama"] | DEVICES | {"clients": 4, "cuts": 2, "rounds": 2, "padding_free": True}
    plan = plan_command(Job(**job), console=QUIET)
    result = run(Job(**job, output_dir=str(tmp_path / "run")), console=QUIET)
    assert_is_the_run(plan, result)
    padded = plan_command(Job(**job | {"padding_free": False}), console=QUIET)
    assert padded["bytes"] == plan["bytes"] and padded["virtual_seconds"] > plan["virtual_seconds"]


@pytest.mark.parametrize(("kind", "free"), [("llama", True), ("opt", False)])
def test_over_connections_both_sides_do_the_same(kind: str, free: bool, tmp_path: Path, forms: Forms) -> None:
    """Clients hear of it in the job that they are told, which says no where the server's proof did."""
    names = ["anna", "bert"]
    files = {name: str(write_rows(tmp_path / f"{name}.txt", rows=30, seed=i)) for i, name in enumerate(names)}
    job = make_setting(tmp_path, kind, num_hidden_layers=4) | FEW | {
        "data_files": files, "cuts": [1, 2], "labels": "server", "max_eval_samples": None, "rounds": 2,
        "partition": {"method": "files"}, "network": {"clients": names}, "padding_free": True,
    }  # fmt: skip
    here = run(Job(**job, output_dir=str(tmp_path / "here")), console=QUIET)
    assert {masked for _, masked in forms.take()} == {not free}
    over = together(job, tmp_path / "over")
    assert {masked for _, masked in forms.take()} == {not free}
    summary = json.loads((over / "summary.json").read_text())
    assert len(summary["notices"]) == (0 if free else 1)
    adapter = (over / "adapter" / "adapter_model.safetensors").read_bytes()
    assert adapter == (here.adapter_path / "adapter_model.safetensors").read_bytes()

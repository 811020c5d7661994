"""A client's own checks: its model's files, memory, disk and bytes, and its owner's word on a terminal."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from splitft import Job
from splitft.engines.network.request_gate import RequestGate
from splitft.engines.network.site_files import SAVED, SiteFiles
from splitft.errors import PolicyError
from splitft.job.site_policy import SitePolicy
from splitft.proof.cancelled import LayerChange, layer_changes
from splitft.running.agreement import AGREED, Agreement
from splitft.running.model import choose_targets, inject_adapters, load_base, make_split_model
from splitft.running.site_checks import check_front, check_memory, check_model_files
from tiny import save_tiny_model

QUIET = Console(quiet=True)


def split(folder: Path, model_type: str = "llama", **changes: Any) -> Any:
    path = save_tiny_model(folder / model_type, model_type)
    job = Job(model_name_or_path=str(path), dataset_name="d", use_cpu=True, lora_r=4, **changes)
    base = load_base(job, QUIET)
    slots = inject_adapters(job, base, choose_targets(job, base)[0])
    return job, make_split_model(job, base, slots, "dummy_ids", "whole")


def test_weights_are_those_that_the_policy_lists(tmp_path: Path) -> None:
    job, _ = split(tmp_path)
    digest = hashlib.sha256((tmp_path / "llama" / "model.safetensors").read_bytes()).hexdigest()
    for listed in ([digest], []):
        check_model_files(SitePolicy(models={"theirs": listed}), "theirs", job)
    with pytest.raises(PolicyError, match=f"SHA-256 {digest}, which models does not list for theirs"):
        check_model_files(SitePolicy(models={"theirs": ["0" * 64]}), "theirs", job)


def test_memory_disk_and_bytes_have_limits(tmp_path: Path) -> None:
    job, model = split(tmp_path)
    check_memory(SitePolicy(max_memory_gb=1.0), model, 3)
    with pytest.raises(PolicyError, match=r"max_memory_gb is 0\.0001"):
        check_memory(SitePolicy(max_memory_gb=0.0001), model, 0)
    state = {"tensor": torch.zeros(1000)}
    files = SiteFiles(tmp_path / "kept", 6e-6)
    files.save(SAVED, 1, state)
    with pytest.raises(PolicyError, match="max_disk_gb is 6e-06"):
        files.save(SAVED, 2, state)
    gate = RequestGate(job, SitePolicy(max_mb_per_round=1.0), 4, [2], eval_rows=1)
    gate.count(900_000)
    with pytest.raises(PolicyError, match="more than 1 MB in one round"):
        gate.count(200_000)


@pytest.mark.parametrize(("model_type", "changes"), [
    ("llama", {"lora_target_modules": ["q_proj", "down_proj"]}), ("llama", {"use_dora": True}),
    ("gpt2", {"lora_target_modules": ["c_attn", "c_proj"]}), ("llama", {"init_lora_weights": "pissa"}),
])  # fmt: skip
def test_what_adapters_cancel_is_seen_whatever_the_layers(
    model_type: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Adapters that change nothing, and those that take a layer away."""
    _, model = split(tmp_path, model_type, **changes)
    nothing = {b: {s.name: torch.zeros(s.at_rank(4)) for s in model.slots.layout[b]} for b in (0, 1)}
    if model.slots.start:
        nothing = {block: model.slots.start[block] for block in (0, 1)}
    if changes.get("use_dora"):
        for block, tensors in nothing.items():
            for name in tensors:
                if name.endswith("magnitude_vector"):
                    path = f"{model.slots.path}.{block}.{name.partition('.lora_')[0]}"
                    tensors[name] = model.model.get_submodule(path).get_base_layer().weight.norm(dim=1)
    for change in layer_changes(model, nothing):
        assert abs(change.cancelled) < 1e-6 and change.size < 1e-5
    check_front(SitePolicy(), model, nothing)
    hostile = {b: dict(tensors) for b, tensors in nothing.items()}
    layer = next(iter(hostile[1])).partition(".lora_")[0]
    if changes.get("use_dora"):
        hostile[1][f"{layer}.lora_magnitude_vector"] = torch.zeros_like(
            hostile[1][f"{layer}.lora_magnitude_vector"]
        )
    else:
        module = model.model.get_submodule(f"{model.slots.path}.1.{layer}")
        weight = module.get_base_layer().weight.detach().float()
        weight = weight.T if model_type == "gpt2" else weight
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        a, b = (f"{layer}.lora_{side}.weight" for side in "AB")
        hostile[1][a] = v[:4] * s[:4, None]
        hostile[1][b] = -u[:, :4] / module.scaling["default"]
        if model.slots.start:  # its start, which belongs to the layer, is gone as well
            hostile[1][b] = torch.zeros_like(hostile[1][b])
    found = {change.layer: change for change in layer_changes(model, hostile)}
    bad: LayerChange = found.pop(f"1.{layer}")
    assert bad.cancelled > 0.25 and all(abs(change.cancelled) < 1e-6 for change in found.values())
    with pytest.raises(PolicyError, match=rf"cancel \d+ % of the weights of layer 1\.{layer}"):
        check_front(SitePolicy(), model, hostile)
    with pytest.raises(PolicyError, match="times as large as"):
        check_front(SitePolicy(max_cancelled=2.0, max_adapter_size=1e-3), model, hostile)


@pytest.mark.parametrize(("answer", "agrees"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_an_owner_at_a_terminal_is_asked(
    answer: str, agrees: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    shown = Console(file=io.StringIO(), force_terminal=True, width=120, no_color=True)
    job = Job(model_name_or_path="m", dataset_name="d", labels="client", codec="int8")
    agreement = Agreement(tmp_path, "", shown)
    if agrees:
        agreement.require(job, ["q_proj"], "--data notes.jsonl")
        Agreement(tmp_path, "", QUIET).require(job, ["q_proj"], "--data notes.jsonl")  # never asked again
    else:
        with pytest.raises(PolicyError, match="needs its owner's agreement"):
            agreement.require(job, ["q_proj"], "--data notes.jsonl")
    assert (tmp_path / AGREED).exists() == agrees
    text = " ".join(shown.file.getvalue().split())  # type: ignore[attr-defined]
    for part in (
        "--data notes.jsonl, column text",
        "stay here",
        "LoRA of rank 16 on q_proj",
        "Agree to this job?",
        "not stated by the job",
        "activations of every row after 2 blocks as int8, to the server: readable",
        "No label and no token id is sent, but from the activations of every row",
    ):
        assert part in text, text

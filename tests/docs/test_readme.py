"""Every command and every Python example of the README runs as it stands, and so does the demo."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from documents import ROOT, check_trained, run, run_every_block


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path) -> None:
    run_every_block("README.md", tmp_path)


def test_make_demo_runs_the_quickstart(tmp_path: Path) -> None:
    """The same targets as a person's, with fewer steps; the whole demo is among the slow tests."""
    if not shutil.which("make"):
        pytest.fail("make is one of the two things a person needs")
    short = (
        "rounds=1 local_steps=1 max_train_samples=200 max_eval_samples=10 cut_policy.max_cut=5 "
        "num_sample_continuations=1"
    )
    shown = run(["make", "demo", f"OUT={tmp_path / 'demo'}", f"ARGS={short}"], ROOT)
    assert "AutoPeftModelForCausalLM" in shown and "vllm serve" in shown and "llama-server" in shown
    for name in ("adapter/adapter_model.safetensors", "history.jsonl", "perplexity.png", "partition.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
    check_trained(tmp_path)

"""The image's steps, run in a fresh root: no builder is needed, and nothing of the machine changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import run_process
from containerfile import has_roots, script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_roots(), reason="this user may mount no root of its own"),
]
SHORT = "rounds=1 local_steps=1 max_train_samples=200 max_eval_samples=10 cut_policy.max_cut=5"


def test_the_steps_of_the_image_end_with_a_command_that_trains(tmp_path: Path) -> None:
    """As its user, in its folder for data, without the checkout: the demo ends with an adapter."""
    folder = tmp_path / "layers"
    folder.mkdir()
    tell = "&& id -un && pwd && which splitft && ls -l runs/quickstart/adapter"
    steps = script(folder, f"demo {SHORT} {tell}")
    done = run_process(["unshare", "-m", "--propagation", "private", "sh", "-c", steps])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said, _, files = done.stdout.partition("\ntotal ")
    assert said.splitlines()[-3:] == ["splitft", "/home/splitft/data", "/opt/base/bin/splitft"]
    weights = next(line for line in files.splitlines() if line.endswith("adapter_model.safetensors"))
    assert weights.split()[2] == "splitft"
    assert "splitft 0." in done.stdout  # `splitft --version`, a step of the recipe
    assert not list(folder.iterdir())  # the layers were of its own namespace

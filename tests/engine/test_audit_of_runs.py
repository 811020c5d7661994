"""What real runs over a network left on the server's disk, attacked by the project's own attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import save_file

from network_threads import Settings, three_sites, together
from splitft import Job
from splitft.common.checkpoint import load_checkpoint, save_checkpoint
from splitft.engines.network.site_files import KEY
from splitft.tools.audit.command import audit_command
from splitft.tools.audit.left_behind import IN_ACTIVATIONS, IN_IDS, IN_TEXT
from splitft.tools.audit.public import public_text
from splitft.wire.memory.frozen import FrozenMemory
from splitft.wire.memory.sealed import opened
from tiny import save_tiny_model

NAMES = ("north", "south")
PUBLIC = 12_000  # characters: enough for a tiny model's inverter


def setting_of(folder: Path, **own: Any) -> Settings:
    made = three_sites(
        folder,
        NAMES,
        labels="client",
        tail_blocks=1,
        max_length=96,
        adapter_name_or_path=None,
        cuts=[1, 1],
        **own,
    )
    return made | {"model_name_or_path": str(wider(folder))}


def wider(folder: Path) -> Path:
    """A model whose hidden states are wide enough to tell 320 tokens apart."""
    return save_tiny_model(folder / "wider", "llama", num_hidden_layers=4, hidden_size=64)


def audit(setting: Settings, folder: Path, tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of what a run left, by how it was looked for."""
    public = tmp_path / "public.txt"
    public.write_text(public_text(None)[:PUBLIC])
    told = audit_command(Job(**setting), rows=4, run=folder, public=public, console=Console(quiet=True))
    assert any("memory" in one for one in told["not_tried"])
    kinds = (IN_IDS, IN_TEXT, IN_ACTIVATIONS)
    return {kind: [line for line in told["lines"] if line["attack"] == kind] for kind in kinds}


def verdicts(lines: dict[str, list[dict[str, Any]]]) -> dict[str, set[str]]:
    return {kind: {line["verdict"] for line in own} for kind, own in lines.items()}


NOTHING = {kind: {"not found"} for kind in (IN_IDS, IN_TEXT, IN_ACTIVATIONS)}


def test_the_disk_of_a_server_with_delta(tmp_path: Path) -> None:
    """Nothing is read of the sealed checkpoints; the same ones unsealed are read."""
    setting = setting_of(tmp_path, codec="delta")
    folder = together(setting, tmp_path)
    found = load_checkpoint(folder / "checkpoints")
    assert found is not None and all(found.state["cohort"]["memories"][name] for name in NAMES)
    assert verdicts(audit(setting, folder, tmp_path)) == NOTHING

    # As if the server wrote down what it keeps.
    memories = found.state["cohort"]["memories"]
    for name in NAMES:
        memories[name] = opened(memories[name], (tmp_path / name / KEY).read_text(), name)
    save_checkpoint(folder / "checkpoints", found.round, found.state, keep=1)
    unsealed = audit(setting, folder, tmp_path)
    assert {line["client"] for line in unsealed[IN_ACTIVATIONS]} == set(NAMES)
    for line in unsealed[IN_ACTIVATIONS]:
        assert line["verdict"] in ("readable", "partly readable"), line
    assert verdicts(unsealed) | {IN_ACTIVATIONS: set()} == NOTHING | {IN_ACTIVATIONS: set()}


@pytest.mark.parametrize("codec", ["int8"])
def test_the_disk_of_a_server_with_frozen_fronts(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the samples is on the disk; what the server's memory holds, written down, is read."""
    memories: list[FrozenMemory] = []
    forget = FrozenMemory.forget

    def noted(self: FrozenMemory) -> None:
        memories.append(self)
        forget(self)

    monkeypatch.setattr(FrozenMemory, "forget", noted)
    setting = setting_of(tmp_path, codec=codec, train_front=False)
    folder = together(setting, tmp_path)
    assert verdicts(audit(setting, folder, tmp_path)) == NOTHING

    kept = {
        f"/{place}/{sample}": one[0].clone()
        for place, memory in enumerate(memories)
        for sample, one in memory._kept.items()
    }
    assert len(kept) > 5
    save_file(kept, folder / "cache.safetensors")
    written = audit(setting, folder, tmp_path)
    assert {line["verdict"] for line in written[IN_ACTIVATIONS]} <= {"readable", "partly readable"}

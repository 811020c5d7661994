"""Neither side of the seam of the server imports the other, or names what only the other may see."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
from torch import Tensor

import splitft.server
from splitft.server import seam

FOLDER = Path(splitft.server.__file__).parent
VALUES = (tuple[str, ...], tuple[int, ...], tuple[Tensor, ...])


def reached(name: str) -> set[str]:
    """Files of the server that a file imports, or files that it imports."""
    found: set[str] = set()
    left = [name]
    while left:
        tree = ast.parse((FOLDER / f"{left.pop()}.py").read_text())
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        new = {m.rpartition(".")[2] for m in modules if m.startswith("splitft.server.")} - found
        found |= new
        left += new
    return found


def test_the_coordinator_reaches_nothing_that_computes_on_activations() -> None:
    assert reached("coordinator") == {
        "average",
        "global_adapter",
        "guard",
        "round_average",
        "seam",
        "secure_average",
        "server_steps",
    }
    assert "Activations" not in (FOLDER / "coordinator.py").read_text()
    assert "splitft.model" not in (FOLDER / "coordinator.py").read_text()


def test_the_worker_reaches_nothing_that_averages() -> None:
    assert not reached("worker") & {"coordinator", "average", "global_adapter", "server"}
    assert "AdapterUp" not in (FOLDER / "worker.py").read_text()


@pytest.mark.parametrize(
    "kind", [seam.GlobalBlocks, seam.TrunkLoad, seam.TrunkMoments, seam.TrunkUpdate], ids=lambda k: k.__name__
)
def test_messages_hold_plain_values(kind: type) -> None:
    hints = get_type_hints(kind)
    assert all(hints[field.name] in VALUES for field in fields(kind))  # type: ignore[arg-type]

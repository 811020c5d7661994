"""The notebook, executed in a kernel of its own: quickly on a tiny model, and slowly as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from documents import ROOT

from tiny import save_tiny_model

nbformat = pytest.importorskip("nbformat", reason="pip install 'splitft[dev]' brings nbclient and ipykernel")
NOTEBOOK = ROOT / "examples" / "splitft-in-ten-minutes.ipynb"
TINY = """
MODEL = "model"
SIZE = {"rounds": 3, "local_steps": 3, "max_length": 32, "max_eval_samples": 8}
"""


def executed(folder: Path, parameters: str | None = None) -> Any:
    """Execute the notebook in a folder, its parameters' cell replaced; raises where a cell fails."""
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if parameters is not None:
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source = parameters
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=180, kernel_name="python3", resources=resources).execute()


def outputs(notebook: Any, kind: str) -> str:
    """All outputs of a MIME type, or of streams ("stdout", "stderr"), in their order."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("data", {}).get(kind, "") for output in found]
    return "\n".join(texts + [output.text for output in found if output.get("name") == kind])


def check(notebook: Any, folder: Path) -> None:
    html = outputs(notebook, "text/html")
    assert "<table>" in html and "perplexity" in html
    assert len(outputs(notebook, "image/png").split()) >= 2, "the partition and the perplexity"
    assert "after:" in outputs(notebook, "stdout")
    assert 'install "ipywidgets"' not in outputs(notebook, "stderr"), "progress needs no widgets"
    assert (folder / "runs/notebook/own/adapter/adapter_model.safetensors").exists()


@pytest.mark.slow
def test_on_a_tiny_model(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model", "llama", num_hidden_layers=8)
    check(executed(tmp_path, TINY), tmp_path)


@pytest.mark.slow
def test_as_it_stands(tmp_path: Path) -> None:
    check(executed(tmp_path), tmp_path)


def test_it_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert NOTEBOOK.stat().st_size < 20_000

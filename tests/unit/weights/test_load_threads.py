"""Several threads may load models at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from splitft.weights.load import load_model
from tiny import save_tiny_model, tiny_model


def test_loading_in_threads_leaves_transformers_as_it_was(tmp_path: Path) -> None:
    """It takes its classes apart while it loads; two threads at once would leave models untied for good."""
    path = save_tiny_model(tmp_path / "model", "gpt2")
    with ThreadPoolExecutor(4) as pool:
        for _ in range(6):
            list(pool.map(lambda blocks: load_model(path, blocks=blocks, head=True), [[0], [1], [0], [1]]))
    model = tiny_model("gpt2")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

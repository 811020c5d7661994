"""The short suite of `make test-matrix`: check, a run, the same over a network, and stock peft's view of it.

It goes through the command line only. With SPLITFT_MATRIX=FILE it writes the adapter's digest there.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

import splitft
from commands import start_process
from reference import make_setting, write_rows

pytestmark = pytest.mark.matrix
NAMES = ("north", "south")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [sys.executable, "-m", "splitft.launch", *arguments]
    return start_process(command, cwd=folder, text=True, **streams)


def finish(*processes: subprocess.Popen[str]) -> str:
    """Wait for commands to end well; return what the first said."""
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(said)
    return said[0]


def digest(run: Path) -> str:
    return hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a file for each client, a job, and its run in one process."""
    folder = tmp_path_factory.mktemp("matrix")
    settings = make_setting(folder, "llama") | {
        "clients": 2, "cuts": [1, 3], "rounds": 2, "local_steps": 2, "labels": "server",
        "partition": {"method": "files"}, "gradient_checkpointing": True,
        "data_files": {name: str(write_rows(folder / f"{name}.txt", 30, i)) for i, name in enumerate(NAMES)},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(settings))
    finish(start(folder, "run", "job.yaml", "output_dir=run"))
    return folder


def test_every_module_can_be_imported() -> None:
    """What an extra brings may be missing; of ours, and of the libraries below, nothing."""
    found, without = 0, set()
    for module in pkgutil.walk_packages(splitft.__path__, "splitft."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
            found += 1
        except ModuleNotFoundError as error:
            without.add(str(error.name).partition(".")[0])
    assert found > 300
    assert not without & {"splitft", "torch", "transformers", "peft", "grpc", "cryptography", "typer"}


def test_the_split_is_exact(folder: Path) -> None:
    said = finish(start(folder, "check", "model"))
    assert "verdict             exact" in said, said


def test_clients_over_a_network_make_the_same_adapter(folder: Path) -> None:
    """Client and server hold parts of the model; the adapter is the one of a run in one process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    members = "network={clients: [north, south]}"
    server = start(folder, "server", "job.yaml", "output_dir=net", members, "--listen", address)
    client = ("client", "--server", address)
    clients = [
        start(folder, *client, "--name", name, "--data", f"{name}.txt", "--folder", name, "--accept", "first")
        for name in NAMES
    ]
    finish(server, *clients)
    assert digest(folder / "net") == digest(folder / "run")
    if result := os.environ.get("SPLITFT_MATRIX"):
        Path(result).write_text(digest(folder / "run"))


def test_stock_peft_loads_the_export(folder: Path) -> None:
    finish(start(folder, "export", "run", "adapter-alone"))
    finish(start(folder, "export", "run", "merged", "--merge"))
    ids = torch.arange(4, 24)[None]
    plain, merged = (
        AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32).eval()
        for name in ("model", "merged")
    )
    adapter = str(folder / "adapter-alone")
    tuned = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = tuned(input_ids=ids).logits
        assert torch.allclose(merged(input_ids=ids).logits, logits, atol=1e-5)
        assert not torch.allclose(plain(input_ids=ids).logits, logits, atol=1e-3)

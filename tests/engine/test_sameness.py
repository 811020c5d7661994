"""What must be the same at server and client is refused with both values where it is not."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cases import rest_slow
from network_threads import QUIET
from reference import make_setting, write_rows
from splitft import Job
from splitft.common.checkpoint import load_checkpoint
from splitft.engines.network.transport.listener import Listener
from splitft.errors import DataError, MismatchError, SplitFTError
from splitft.running.join import join
from splitft.running.serve import serve
from tiny import CHAT_TEMPLATE, save_tiny_model, save_to

Settings = dict[str, Any]


@pytest.fixture
def setting(tmp_path: Path) -> Settings:
    own = {"anna": str(write_rows(tmp_path / "anna.txt", rows=24))}
    return make_setting(tmp_path, "llama") | {
        "data_files": own, "partition": {"method": "files"}, "labels": "client", "tail_blocks": 1,
        "rounds": 2, "local_steps": 1, "cuts": 2, "warmup_steps": 0, "network": {"clients": ["anna"]},
    }  # fmt: skip


class Run:
    """A server in a thread, and clients that come to it one after another."""

    def __init__(self, setting: Settings, folder: Path, **options: Any) -> None:
        self.folder, self.setting, ports = folder, setting, []
        listening = threading.Event()
        self.summary: dict[str, Any] = {}

        def on_listening(listener: Listener) -> None:
            ports.append(listener.port)
            listening.set()

        def run() -> None:
            job = Job(**setting, output_dir=str(folder / "run"))
            result = serve(job, "127.0.0.1:0", console=QUIET, on_listening=on_listening, **options)
            self.summary = result.summary

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        assert listening.wait(60)
        self.address = f"127.0.0.1:{ports[0]}"

    def client(self, **options: Any) -> str:
        """Take part with another model or file; return the error's line, empty where the run is complete."""
        data = options.pop("data", Path(self.setting["data_files"]["anna"]))
        try:
            join(
                self.address, "anna", data=data, folder=self.folder / "anna", accept="first", console=QUIET,
                **options,
            )  # fmt: skip
        except SplitFTError as error:
            self.error = error
            return str(error)
        return ""


def other_weights(folder: Path, setting: Settings) -> None:
    save_tiny_model(folder, "llama", seed=7)


def one_weight(folder: Path, setting: Settings) -> None:
    """The same model, but for one value of one block."""
    save_tiny_model(folder, "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def other_theta(folder: Path, setting: Settings) -> None:
    save_tiny_model(folder, "llama")
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(config))


def other_template(folder: Path, setting: Settings) -> None:
    save_tiny_model(folder, "llama")
    save_to(folder, CHAT_TEMPLATE)


@pytest.mark.parametrize(("change", "thing"), rest_slow([
    (other_weights, "block 0: "), (one_weight, "block 1: "),
    (other_theta, "config rms_norm_eps: 0.001, at the server"), (other_template, "chat template: "),
], 2))  # fmt: skip
def test_another_model_is_refused_and_its_client_comes_again(
    change: Any, thing: str, setting: Settings, tmp_path: Path
) -> None:
    """Once the right model is there, the run comes to its end with it: nobody is expelled."""
    run = Run(setting, tmp_path)
    change(tmp_path / "other", setting)
    told = run.client(model=str(tmp_path / "other"))
    assert told.startswith("what is loaded here is not what the server has (")
    assert thing in told and ", at the server " in told and isinstance(run.error, MismatchError)
    assert run.client() == ""
    run.thread.join(60)
    versions = run.summary["client_versions"]["anna"]
    assert versions["torch"] == run.summary["versions"]["torch"] and {
        "splitft",
        "transformers",
        "peft",
    } <= set(versions)


def test_a_data_file_that_was_swapped_is_refused(setting: Settings, tmp_path: Path) -> None:
    """As many rows, other text: the saved state is not theirs."""
    own = tmp_path / "anna"
    run = Run(setting, tmp_path)
    assert run.client() == ""
    run.thread.join(60)
    saved = load_checkpoint(own / "saved")
    assert saved is not None and len(saved.state["data"]) == 64
    # The run is extended, and the client comes with another file.
    more = Run(setting | {"rounds": 3}, tmp_path, resume=True)
    other = write_rows(tmp_path / "other.txt", rows=24, seed=5)
    (own / "agreed.json").unlink()  # more rounds: agreed to anew
    told = more.client(data=other)
    assert told.startswith(f"the data are not those of the state in {own}") and isinstance(
        more.error, DataError
    )

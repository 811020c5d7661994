"""Planted canaries: a secret and a client's text turn up nowhere but where they belong.

The text is looked for as text and as token ids; where ids do travel (`labels: server`), the same search finds
them on the wire.
"""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer

from forks import start_command
from network_threads import Settings, follow, together
from ports import free_port
from reference import WORDS, make_setting
from splitft import Job
from splitft.errors import SplitFTError
from splitft.job import dump_job
from splitft.job.redaction import RedactConfig
from splitft.job.site_policy import SitePolicy
from splitft.running.join import join
from splitft.tools.report.command import report_command
from splitft.wire.messages import Activations
from tcp_proxy import Proxy

SENTENCE = "the heliotrope patient of ward seven refused the moss-green capsule on a wednesday"
SECRET = "canary-9f3c-secret-of-the-site-41d7"
HONEST = ["anna", "bert"]
WINDOW = 8  # token ids in a row
LABELS: dict[str, Settings] = {
    "server": {"labels": "server", "tail_blocks": 0},
    "client": {"labels": "client", "tail_blocks": 1},
    "whole models": {"method": "fed_lora"},  # labels: where they are
}


def write_canaries(path: Path, seed: int) -> Path:
    """Paragraphs that all end in the sentence."""
    rng = random.Random(seed)
    rows = [f"{' '.join(rng.choices(list(WORDS), k=rng.randrange(1, 6)))} {SENTENCE}" for _ in range(24)]
    path.write_text("\n\n".join(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("canaries")
    files = {name: str(write_canaries(folder / f"{name}.txt", i)) for i, name in enumerate(HONEST)}
    return make_setting(folder, "llama", num_hidden_layers=4) | {
        "data_files": files, "rounds": 2, "local_steps": 2, "cuts": 1, "warmup_steps": 0, "max_length": 48,
        "max_eval_samples": None, "partition": {"method": "files"}, "network": {"clients": HONEST},
    }  # fmt: skip


def ids_of(setting: Settings) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(setting["model_name_or_path"])
    ids: list[int] = tokenizer(" " + SENTENCE)["input_ids"]
    assert len(ids) > 2 * WINDOW
    return ids


def traces(ids: Sequence[int]) -> list[bytes]:
    """What a part of the ids looks like in a file or on a wire."""
    found: list[bytes] = []
    for start in range(len(ids) - WINDOW + 1):
        part = ids[start : start + WINDOW]
        found += [b"".join(i.to_bytes(width, "little") for i in part) for width in (2, 4, 8)]
        found += [between.join(str(i) for i in part).encode() for between in (", ", ",", " ")]
    return found


def hits(content: bytes, ids: Sequence[int]) -> list[str]:
    """What of the canaries is in some bytes."""
    texts = [SECRET[:24], *(SENTENCE[start : start + 24] for start in range(0, len(SENTENCE) - 24, 4))]
    found = [text for text in texts if text.encode() in content]
    return found + [f"ids {trace!r}" for trace in traces(ids) if trace in content]


def hits_below(folders: Iterable[Path], ids: Sequence[int]) -> dict[str, list[str]]:
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert paths
    return {str(path): found for path in paths if (found := hits(path.read_bytes(), ids))}


def wire_of(setting: Settings, folder: Path, policy: SitePolicy | None = None) -> bytes:
    """Run a job of one round; return every byte that crossed between server and clients."""
    proxies: list[Proxy] = []

    def port_for(name: str, port: int) -> int:
        proxies.append(Proxy(port))
        proxies[-1].captured = {}
        return proxies[-1].port

    together(setting | {"rounds": 1}, folder, port_for=port_for, policy=policy)
    wire = b"|".join(bytes(captured) for proxy in proxies for captured in (proxy.captured or {}).values())
    for proxy in proxies:
        proxy.close()
    assert len(wire) > 50_000
    return wire


@pytest.mark.parametrize("labels", LABELS)
def test_ids_cross_the_wire_only_where_the_server_has_the_labels(
    labels: str, setting: Settings, tmp_path: Path
) -> None:
    found = hits(wire_of(setting | LABELS[labels], tmp_path), ids_of(setting))
    assert bool(found) == (labels == "server"), found[:3]
    assert not [text for text in found if not text.startswith("ids")]


def test_a_sentence_that_a_site_redacts_crosses_no_wire(setting: Settings, tmp_path: Path) -> None:
    """The same job sends it as labels and as held-out ids where it is not redacted: the test above."""
    policy = SitePolicy(redact=RedactConfig(patterns=[SENTENCE]))
    assert not hits(wire_of(setting | LABELS["server"], tmp_path, policy), ids_of(setting))
    assert not hits_below([tmp_path], ids_of(setting))  # nor does a client keep it, beside its own file


class Run:
    """A server process that is killed and goes on, two honest clients, and two that fail."""

    def __init__(self, setting: Settings, labels: str, folder: Path) -> None:
        self.folder, self.setting = folder, setting
        self.server, self.clients = folder / "server", folder / "clients"
        self.server.mkdir()
        (folder / "secret").write_text(SECRET)
        # A round begins when each has come, or has been given up.
        network = {"clients": [*HONEST, "broken", "mallory"], "min_clients": 2, "rejoin_seconds": 5.0}
        job = Job(**setting | LABELS[labels] | {"network": network}, output_dir=str(self.server / "run"))
        dump_job(job, self.server / "job.yaml")
        self.port = free_port()
        self.process: ForkServerProcess | None = None
        self.threads: dict[str, threading.Thread] = {}

    def start_server(self, points: str = "") -> None:
        arguments = [
            "server", self.server / "job.yaml", "--listen", f"127.0.0.1:{self.port}", "--token-file",
            self.folder / "secret", "--resume",
        ]  # fmt: skip
        self.process = start_command(arguments, self.server / "server.log", points=points)

    def server_ended(self, seconds: float = 120.0) -> int | None:
        """Wait for the server to end; return its exit code."""
        assert self.process is not None
        self.process.join(seconds)
        return self.process.exitcode

    def start_client(self, name: str, run: Callable[[Console], object]) -> None:
        """What a client says goes to a file, as the command line has it."""

        def follow_to_the_end() -> None:
            self.clients.mkdir(exist_ok=True)
            with (self.clients / f"{name}.log").open("w", encoding="utf-8") as log:
                try:
                    run(Console(file=log, width=1000))
                except SplitFTError as error:
                    log.write(f"error: {error}")

        self.threads[name] = threading.Thread(target=follow_to_the_end, name=name, daemon=True)
        self.threads[name].start()

    def ended(self, name: str, seconds: float = 5.0) -> bool:
        """Whether a client is not at work, or ends within so many seconds."""
        if name in self.threads:
            self.threads[name].join(seconds)
        return name not in self.threads or not self.threads[name].is_alive()

    def join(self, name: str, data: Path) -> None:
        self.start_client(name, lambda console: join(
            f"127.0.0.1:{self.port}", name, data=data, token=SECRET, folder=self.clients / name,
            console=console, accept="first",
        ))  # fmt: skip

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()


@pytest.fixture
def started(setting: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    made = Run(setting, request.param, tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize("started", ["server", pytest.param("client", marks=pytest.mark.slow)], indirect=True)
def test_canaries_are_in_no_log_checkpoint_or_report(started: Run, capfd: pytest.CaptureFixture[str]) -> None:
    def poison(message: Any) -> list[Any]:
        if isinstance(message, Activations):
            message = replace(message, hidden=torch.full_like(message.hidden, float("nan")))
        return [message]

    ids, address = ids_of(started.setting), f"127.0.0.1:{started.port}"
    headless = started.folder / "broken.csv"  # its first row is taken for the names of its columns
    headless.write_text(f'"{SENTENCE}","{SENTENCE} again"\n"a","b"\n')
    mallory = write_canaries(started.folder / "mallory.txt", 7)

    def start_who_fails() -> None:
        started.join("broken", headless)
        if not started.ended("mallory"):
            return  # it was not told of its end before the server's, and will dial again
        started.start_client("mallory", lambda console: follow(
            "mallory", mallory, address, started.clients / "mallory", poison, None, SECRET
        ))  # fmt: skip

    started.start_server("server.step:7:kill")  # in the second round: mallory is expelled in the first
    started.start_client("stranger", lambda console: follow(
        "anna", mallory, address, started.clients / "stranger", None, None, SECRET + "!"
    ))  # fmt: skip
    assert started.ended("stranger", 60)
    for name in HONEST:
        started.join(name, Path(started.setting["data_files"][name]))
    start_who_fails()
    assert started.server_ended() == -signal.SIGKILL
    assert list((started.server / "run" / "checkpoints").iterdir())
    assert "its token is wrong" in (started.server / "run" / "audit.jsonl").read_text()
    assert not hits_below([started.server], ids)
    assert started.ended("broken", 60)
    start_who_fails()
    started.start_server()
    assert started.server_ended() == 9  # complete, without two of those invited
    for name in started.threads:
        assert started.ended(name, 60), name
    report_command([started.server / "run"], started.server / "report.html", None)
    names = {path.name for path in started.server.rglob("*")}
    assert names >= {
        "audit.jsonl", "history.jsonl", "steps.jsonl", "summary.json", "adapter_model.safetensors",
        "README.md", "report.html", "server.log",
    }, names  # fmt: skip
    assert not hits_below([started.server], ids)
    own = hits_below([started.clients], ids)
    assert set(own) <= {str(started.clients / "broken.log")}, own  # told to its own user alone
    said = (started.server / "server.log").read_text()
    assert "mallory is expelled" in said and "broken is not ready" in said and "cannot be used" in said
    assert not hits("".join(capfd.readouterr()).encode(), ids)


def test_the_search_finds_what_it_looks_for(setting: Settings) -> None:
    import numpy as np

    ids = ids_of(setting)
    for dtype in (np.int16, np.int32, np.int64):
        assert hits(b"..." + np.array([5, *ids[3:12]], dtype=dtype).tobytes() + b"...", ids)
    assert hits(str(ids).encode(), ids) and hits(SENTENCE.encode(), ids) and hits(SECRET.encode(), ids)
    assert not hits(b"the people of the united states " * 9, ids)

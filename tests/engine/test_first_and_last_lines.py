"""What a run prints first and last, on a terminal of 60 columns, and what it then says of its adapter."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest
from rich.console import Console

from cases import rest_slow
from commands import splitft
from network_threads import Settings
from reference import make_setting
from site_files import write_open_policy
from splitft import Job, run
from splitft.engines.network.transport.listener import Listener
from splitft.running.join import join
from splitft.running.serve import serve

WIDTH = 60


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_setting(tmp_path_factory.mktemp("lines"), "llama") | {
        "clients": 2, "cuts": [1, 2], "rounds": 2, "local_steps": 2, "warmup_steps": 0, "eval_every": 1,
        "lr_scheduler_type": "constant", "gradient_accumulation_steps": 2, "lora_r_cut": 2,
    }  # fmt: skip


def narrow() -> Console:
    return Console(width=WIDTH, file=io.StringIO(), record=True)


def told(console: Console) -> str:
    """Return all that was printed, as one line."""
    return " ".join(console.export_text(clear=False).split())


def test_the_first_lines_say_what_is_trained_on_what_and_who_can_read_it(
    setting: Settings, tmp_path: Path
) -> None:
    console = narrow()
    run(Job(**setting, output_dir=str(tmp_path / "run")), console=console)
    lines = console.export_text(clear=False).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("model"))
    end = next(number for number, line in enumerate(lines) if line.startswith("before"))
    assert max(map(len, lines[start:end])) <= WIDTH
    text = " ".join(" ".join(lines[start:end]).split())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    counts = summary["parameters"]
    share = 100 * counts["adapter"] / counts["base"]
    assert "4 blocks, float32, on cpu" in text
    assert f"({share:.2g} %): LoRA of rank 4, 2 at the cut" in text
    assert "6 rows a client (2 micro-batches of 3), 12 of 2 clients together" in text
    assert "steps 4 of the optimizer at each client: 2 in each round, 2 in all" in text
    assert "server reads the text" in text


@pytest.mark.parametrize(("changes", "wanted"), [
    ({"labels": "client"}, "nearly all of the text if it computes to find out: an audit read"),
    ({"method": "fed_lora"}, "no text and no activations: clients train whole models"),
    ({"method": "local_only"}, "nothing: no client sends anything"),
    ({"method": "centralized"}, "everything: all rows lie in one place"),
])  # fmt: skip
def test_who_can_read_follows_from_labels_and_method(
    changes: Settings, wanted: str, setting: Settings, tmp_path: Path
) -> None:
    console = narrow()
    run(Job(**setting | {"rounds": 1} | changes, output_dir=str(tmp_path / "run")), console=console)
    assert f"server reads {wanted}" in told(console)


def test_a_client_over_a_network_is_told_what_the_server_can_read(setting: Settings, tmp_path: Path) -> None:
    ports: list[int] = []
    listening = threading.Event()

    def on_listening(listener: Listener) -> None:
        ports.append(listener.port)
        listening.set()

    consoles, policy = [narrow(), narrow()], write_open_policy(tmp_path)

    def take_part(number: int) -> None:
        assert listening.wait(60)
        name, console = f"client-{number}", consoles[number]
        options = {"policy": policy, "accept": "first", "folder": tmp_path / name, "console": console}
        join(f"127.0.0.1:{ports[0]}", name, job_data=True, **options)

    clients = [threading.Thread(target=take_part, args=(number,)) for number in range(2)]
    for client in clients:
        client.start()
    job = Job(**setting | {"labels": "client", "rounds": 1}, output_dir=str(tmp_path / "run"))
    serve(job, "127.0.0.1:0", console=(server := narrow()), on_listening=on_listening)
    for client in clients:
        client.join(60)
    for console in (server, *consoles):
        assert "server reads nearly all of the text if it computes to find out" in told(console)
        assert "Note:" not in told(console)


def test_a_run_that_changed_nothing_says_so_last(setting: Settings, tmp_path: Path) -> None:
    console = narrow()
    short = {"rounds": 1, "local_steps": 1, "lr_scheduler_type": "linear", "warmup_steps": 1}
    new = {"adapter_name_or_path": None, "output_dir": str(tmp_path / "run")}
    result = run(Job(**setting | short | new), console=console)
    assert result.summary["adapter_changed"] is False
    assert told(console).endswith(
        "The adapter did not change: its only optimizer step had learning rate 0, as warm-up begins. Take "
        "more steps (rounds, local_steps), or none of warm-up (warmup_ratio=0 warmup_steps=0)."
    )
    assert "Load it with peft" not in told(console)


@pytest.mark.parametrize(
    "changes", rest_slow([{"adapter_name_or_path": None}, {}, {"method": "local_only"}], 1)
)
def test_what_changed_and_what_did_not_is_in_summary_and_report(
    changes: Settings, setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new adapter, and one that is trained further; averages round, and do not count as a change."""
    still = {"rounds": 1, "local_steps": 1, "lr_scheduler_type": "linear", "warmup_steps": 1}
    setting = setting | {"lora_r_cut": None}  # else what the lower rank cuts off is a change, too
    for name, more in (("still", still), ("moved", {"rounds": 1})):
        folder = tmp_path / name
        result = run(Job(**setting | changes | more, output_dir=str(folder)), console=narrow())
        assert result.summary["adapter_changed"] is (name == "moved")
        assert splitft("report", folder, monkeypatch=monkeypatch) == 0
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert ("the adapter did not change" in page) is (name == "still")

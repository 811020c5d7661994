"""Links that break, fall silent and are slow; and what crosses them, against the ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from history_checker import check_history
from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.engines.network.transport.dialler import LONGEST_WAIT
from splitft.engines.network.transport.link import SILENCE_SECONDS
from splitft.history import read_history
from tcp_proxy import Proxy

NAMES = ["anna", "bert"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("links")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=40, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=4, hidden_size=256) | {
        "data_files": files, "rounds": 2, "local_steps": 12, "cuts": [1, 2], "labels": "server",
        "max_eval_samples": None, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "warmup_steps": 0, "per_device_train_batch_size": 8, "max_length": 64,
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(Job(**setting, output_dir=str(folder)), console=QUIET)
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def proxies() -> Iterator[list[Proxy]]:
    made: list[Proxy] = []
    yield made
    for proxy in made:
        proxy.close()


def through(proxies: list[Proxy], count: int = 1):  # type: ignore[no-untyped-def]
    """Have the last `count` clients reach the server through a proxy of their own."""

    def port_for(name: str, port: int) -> int:
        if NAMES.index(name) < len(NAMES) - count:
            return port
        proxies.append(Proxy(port))
        return proxies[-1].port

    return port_for


def test_the_ledger_counts_what_crosses_the_wire(
    setting: Settings, tmp_path: Path, proxies: list[Proxy]
) -> None:
    """I6, up to the framing of sessions, gRPC and HTTP/2, and the job that is told at the start."""
    folder = together(setting, tmp_path, port_for=through(proxies, count=2))
    history = read_history(folder)
    up, down = (sum(record[f"bytes_{way}"] for record in history) for way in ("up", "down"))
    told = 2 * 8192  # the job, as JSON, and what is said beside the messages of training
    for way, ledger in (("up", up), ("down", down)):
        wire = sum(getattr(proxy, way) for proxy in proxies)
        assert ledger <= wire <= 1.01 * ledger + told, f"{way}: ledger {ledger}, wire {wire}"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "hold"])
def test_a_link_that_breaks_is_taken_up_again(
    fault: str, setting: Settings, undisturbed: bytes, tmp_path: Path, proxies: list[Proxy]
) -> None:
    """Cut for 5 seconds in the middle of a message, or silent until it is noticed; each step still once."""
    seen: dict[str, float] = {}

    def disturb() -> None:
        while not proxies or proxies[0].up < 2_000_000:
            time.sleep(0.01)
        proxy, passed = proxies[0], proxies[0].connections
        if fault == "cut":
            proxy.cut()
            time.sleep(5)
            proxy.mend()
        else:
            proxy.hold()
        began = time.monotonic()
        while proxy.connections == passed:
            time.sleep(0.01)
        seen["again"] = time.monotonic() - began
        proxy.release()

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    folder = together(setting, tmp_path, port_for=through(proxies))
    disturbing.join(60)
    assert seen["again"] <= (LONGEST_WAIT + 1.0 if fault == "cut" else SILENCE_SECONDS + 2.0)
    check_history(folder, Job(**setting, output_dir=str(folder)))
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == undisturbed

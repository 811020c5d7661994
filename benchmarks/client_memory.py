"""Memory of a client's start and of a cut that moves: at most, against what the client then holds.

SmolLM2 (135M), labels at home, as stored (float32) and converted. Weights held, the most memory above that
of the process before, sampled each millisecond, and tensors that were read twice. As stored, weights are
pages of the file, and all resident memory counts; converted, the file's pages are the system's cache.

    python benchmarks/client_memory.py float32     # or bfloat16; a minute
"""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from splitft import Job
from splitft.engines.network.control import Welcome
from splitft.job.told import told_job
from splitft.running.join import ClientSetup
from splitft.weights import load
from splitft.wire.codecs.registry import network_job

QUIET = Console(quiet=True)
MODEL = "builtin:smollm2-135m"
TARGETS = ("q_proj", "v_proj")
MB = 1e6


def resident() -> int:
    """Bytes of this process."""
    wanted = "VmRSS" if sys.argv[1] == "float32" else "RssAnon"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))


def peak_of(act: Callable[[], Any]) -> tuple[Any, int]:
    """Return what a function returns, and the most memory above that before it."""
    gc.collect()
    before, most, over = resident(), [0], threading.Event()

    def sample() -> None:
        while not over.is_set():
            most[0] = max(most[0], resident())
            time.sleep(0.001)

    thread = threading.Thread(target=sample)
    thread.start()
    made = act()
    over.set()
    thread.join()
    return made, max(most[0], resident()) - before


def held(client: Any) -> int:
    return sum(p.numel() * p.element_size() for p in client.model.model.parameters())


def measure(dtype: str) -> None:
    read: Counter[str] = Counter()  # parameters with values, of every load
    from_folder = load._from_folder

    def counting(*arguments: Any) -> Any:
        model = from_folder(*arguments)
        read.update(name for name, _ in model.named_parameters())
        return model

    load._from_folder = counting
    print(f"--- {dtype}")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.txt")
        rows.write_text("\n\n".join(f"a note on the peace of the nation, number {i}" for i in range(40)))
        job = network_job(
            Job(
                model_name_or_path=MODEL, labels="client", cuts=4, use_cpu=True, max_length=32,
                dtype=dtype, lora_target_modules=list(TARGETS), clients=1,
                cut_policy={"method": "schedule", "schedule": {"1": 4, "2": 8}},
                network={"clients": ["anna"]},
            )
        )  # fmt: skip
        text, optional = told_job(job)
        welcome = Welcome(job=text, targets=TARGETS, server_inputs="dummy_ids", optional=optional)
        setup = ClientSetup("anna", rows, None, None, QUIET, lambda address: None)  # type: ignore[arg-type,return-value]
        warm = ClientSetup("anna", rows, None, None, QUIET, lambda address: None)  # type: ignore[arg-type,return-value]
        warm.make(welcome)  # tokenizer, proofs and libraries take their memory once
        del warm
        read.clear()
        joined, start = peak_of(lambda: setup.make(welcome))
        client = joined.client
        first = held(client)
        print(f"start at cut 4: holds {first / MB:.0f} MB, at most {start / MB:.0f} MB: {start / first:.2f}")
        for cut in (8, 16):
            before = held(client)
            _, moved = peak_of(lambda cut=cut: setup.need(client, cut))
            now = held(client)
            print(
                f"move to cut {cut}: holds {now / MB:.0f} MB, at most {(before + moved) / MB:.0f} MB: "
                f"{(before + moved) / now:.2f}"
            )
        twice = [name for name, times in read.items() if times > 1]
        print(
            f"tensors read twice: {len(twice)} {twice[:3]}; loss in chunks: {client.model._head is not None}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    measure(sys.argv[1])

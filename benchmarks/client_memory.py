"""Memory of a client's start and of a cut that moves: at most, against what the client then holds.

SmolLM2 (135M), labels at home, in float32 and in bfloat16. Weights held, the most memory above that of the
process before, sampled each millisecond, and tensors that were read twice. `float32` and `bfloat16`: as
stored, where weights are pages of the file; all resident memory counts. `converted`: a float32 file, held in
bfloat16. Memory of the process alone counts, and the file's pages, which the system takes back where memory
is short, are told beside it.

    python benchmarks/client_memory.py float32     # or bfloat16, or converted; a minute
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
from splitft.running.client_setup import ClientSetup
from splitft.weights import load
from splitft.weights.load import load_model, load_tokenizer
from splitft.wire.codecs.registry import network_job

QUIET = Console(quiet=True)
MODEL = "builtin:smollm2-135m"
TARGETS = ("q_proj", "v_proj")
MB = 1e6


def memory() -> tuple[int, int]:
    """Bytes of this process: in all, and without pages of files."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024, int(lines["RssAnon"].split()[0]) * 1024


def peak_of(act: Callable[[], Any]) -> tuple[Any, tuple[int, int]]:
    """Return what a function returns, and the most memory above that before it."""
    gc.collect()
    before, most, over = memory(), memory(), threading.Event()

    def sample() -> None:
        nonlocal most
        while not over.is_set():
            now = memory()
            most = max(most[0], now[0]), max(most[1], now[1])
            time.sleep(0.001)

    thread = threading.Thread(target=sample)
    thread.start()
    made = act()
    over.set()
    thread.join()
    now = memory()
    return made, (max(most[0], now[0]) - before[0], max(most[1], now[1]) - before[1])


def told(now: int, before: int, grown: tuple[int, int], converted: bool) -> str:
    """Return a line: bytes held, and the most beside what was held before."""
    text = f"holds {now / MB:.0f} MB, "
    if converted:
        text += f"with the file's pages at most {(before + grown[0]) / MB:.0f} MB, without "
    else:
        text += "at most "
    most = before + grown[converted]
    return text + f"{most / MB:.0f} MB: {most / now:.2f}"


def stored_in_bfloat16(folder: Path) -> Path:
    """Write the model as a checkpoint in bfloat16."""
    load_model(MODEL, dtype=torch.bfloat16).save_pretrained(folder)
    load_tokenizer(MODEL).save_pretrained(folder)
    return folder


def held(client: Any) -> int:
    return sum(p.numel() * p.element_size() for p in client.model.model.parameters())


def measure(what: str) -> None:
    read: Counter[str] = Counter()  # parameters with values, of every load
    from_folder = load._from_folder

    def counting(*arguments: Any) -> Any:
        model = from_folder(*arguments)
        read.update(name for name, _ in model.named_parameters())
        return model

    load._from_folder = counting
    print(f"--- {what}")
    converted = what == "converted"
    with tempfile.TemporaryDirectory() as folder:
        model = str(stored_in_bfloat16(Path(folder, "model"))) if what == "bfloat16" else MODEL
        rows = Path(folder, "rows.txt")
        rows.write_text("\n\n".join(f"a note on the peace of the nation, number {i}" for i in range(40)))
        job = network_job(
            Job(
                model_name_or_path=model, labels="client", cuts=4, use_cpu=True, max_length=32,
                dtype="float32" if what == "float32" else "bfloat16",
                lora_target_modules=list(TARGETS), clients=1,
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
        print(f"start at cut 4: {told(first, 0, start, converted)}")
        for cut in (8, 16):
            before = held(client)
            _, moved = peak_of(lambda cut=cut: setup.need(client, cut))
            now = held(client)
            print(f"move to cut {cut}: {told(now, before, moved, converted)}")
        twice = [name for name, times in read.items() if times > 1]
        print(
            f"tensors read twice: {len(twice)} {twice[:3]}; loss in chunks: {client.model._head is not None}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    measure(sys.argv[1])

"""A job over emulated links against the floor of compute and link, and against the naive loop.

One `splitft server` and five `splitft client` processes over gRPC on loopback; each client dials through a
TCP proxy that holds back what passes, as a link of its own does: so many Mbit/s each way, half of the round
trip's milliseconds each way, no losses. A small model with random weights in bfloat16: 6 blocks, 576 wide,
cut 2, rank 16, 4 rows of 64 tokens a client, int8. One round of local steps for every link; its wall time
contains handing out and gathering adapters, and so do the bytes.

The floor is max(compute, link). compute: CPU seconds a step of the server process, of the busiest client, or
of all processes over the cores, whichever is most. link: bytes of a client by the ledger over the bandwidth,
of the direction that has more of them (both can be under way at once); `both ways`: of both, one after the
other.

The naive loop (naive.py, float32, padded to max_length, clients in turn) sends its bytes over the same
links: a server process and one process that is one client after another. Sides take turns.

    python benchmarks/links.py [--repeats 2] [--steps 10] [--links 10/100 100/20 ...] [key=value ...]

key=value: keys of the job, such as codec=int4. Runs with the same settings are added to those in the file.
With micro_batches=auto the first round, which chooses, is over the first link: give one link at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchlib.jobs import values_of
from benchlib.naive_wire import NaiveProcesses
from benchlib.processes import Link, Processes
from benchlib.record import RESULTS, save, spread, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import save_tiny_model

NAMES = [f"client-{i}" for i in range(5)]
LINKS = ("10/20", "10/100", "100/20", "100/100", "1000/20", "1000/100")
WORDS = ("we", "the", "people", "of", "states", "in", "order", "to", "form", "a", "more", "perfect", "union")
WARM_UP = 1  # the first round: nothing is measured; but for `auto` nothing is held back, either


def prepare(folder: Path, blocks: int, width: int, batch: int, tokens: int) -> dict[str, Any]:
    """Write the model and every client's rows; return the settings that depend on them."""
    path = save_tiny_model(folder / "model", "gpt2", num_hidden_layers=blocks, hidden_size=width)
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        rows = [" ".join(rng.choice(WORDS, size=tokens)) for _ in range(16 * batch)]
        (folder / f"{name}.txt").write_text("\n\n".join(rows), encoding="utf-8")
    return {
        "model_name_or_path": str(path), "max_length": tokens, "per_device_train_batch_size": batch,
        "bf16": True, "clients": len(NAMES), "network": {"clients": NAMES}, "labels": "server", "cuts": 2,
        "lora_r": 16, "lora_alpha": 32, "lora_target_modules": ["c_attn", "c_proj"], "codec": "int8",
        "lr_scheduler_type": "constant", "max_eval_samples": 1, "save_every": 0, "use_cpu": True,
    }  # fmt: skip


def measure(settings: dict[str, Any], data: dict[str, Path], links: list[Link], folder: Path) -> list[Any]:
    """Run the job once, a round for every link; return what a step took and sent over each."""
    steps, cores = settings["local_steps"], os.cpu_count() or 1
    found = []
    with Processes(settings, data, folder) as running:
        if settings.get("micro_batches") == "auto":  # it goes by what the first round is like
            links[0].lay(running.proxies)
        running.record_of(WARM_UP)
        for number, link in enumerate(links):
            link.lay(running.proxies)
            before = running.cpu_seconds()
            record = running.record_of(WARM_UP + 1 + number)
            used = [now - then for now, then in zip(running.cpu_seconds(), before, strict=True)]
            ways = [record[f"bytes_{way}"] / len(data) / steps for way in ("up", "down")]
            seconds = [way / link.bytes_per_second for way in ways]
            compute = {
                "server": used[0] / steps,
                "client": max(used[1:]) / steps,
                "all over the cores": sum(used) / cores / steps,
            }
            floor = max(*compute.values(), *seconds)
            both = max(*compute.values(), sum(seconds))
            wall = record["round_seconds"] / steps
            found.append({
                "wall_seconds": wall, "compute_seconds": compute, "bytes_up": ways[0], "bytes_down": ways[1],
                "link_seconds": max(seconds), "link_seconds_both_ways": sum(seconds), "floor": floor,
                "of_floor": wall / floor, "of_floor_both_ways": wall / both,
            })  # fmt: skip
            print(f"splitft  {link!s:<20}{wall:7.3f} s a step, {wall / floor:.2f} of the floor", flush=True)
    return found


def summary(runs: list[Any], naive: list[float]) -> dict[str, Any]:
    """Return the figures of one link over all repeats."""
    keys = (
        "wall_seconds",
        "floor",
        "link_seconds",
        "link_seconds_both_ways",
        "of_floor",
        "of_floor_both_ways",
    )
    found: dict[str, Any] = {key: spread([run[key] for run in runs]) for key in keys}
    for who in runs[0]["compute_seconds"]:
        found[f"compute, {who}"] = spread([run["compute_seconds"][who] for run in runs])
    if naive:
        found["naive_wall_seconds"] = spread(naive)
        found["naive_to_splitft"] = statistics.median(naive) / found["wall_seconds"]["median"]
    return found


def show(result: dict[str, Any]) -> None:
    rows = []
    for link, of in result["links"].items():
        compute = max(of[key]["median"] for key in of if key.startswith("compute"))
        cells = [of["wall_seconds"]["median"], compute, *(of[k]["median"] for k in ("link_seconds",))]
        naive = of.get("naive_wall_seconds", {}).get("median")
        rows.append((
            link,
            *(f"{cell:.3f}" for cell in cells),
            f"{of['of_floor']['median']:.2f}",
            f"{of['of_floor_both_ways']['median']:.2f}",
            f"{naive:.2f}" if naive else "",
            f"{of['naive_to_splitft']:.1f}" if naive else "",
        ))  # fmt: skip
    headings = ("splitft", "compute", "link", "/ floor", "/ both ways", "naive", "times")
    print(table(("Mbit/s/ms: seconds a step of all", *headings), rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="local steps a round")
    parser.add_argument("--naive-steps", type=int, default=2, help="0: without the naive loop")
    parser.add_argument("--links", nargs="+", default=list(LINKS), metavar="MBIT/MS")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / "links.json")
    options = parser.parse_args()
    links = {text: Link(*map(float, text.split("/"))) for text in options.links}
    with tempfile.TemporaryDirectory(prefix="links-") as scratch:
        folder = Path(scratch)
        settings = prepare(folder, options.blocks, options.width, options.batch, options.tokens)
        rounds = WARM_UP + len(links) + 1  # the last one evaluates, and is not measured
        settings |= {"rounds": rounds, "eval_every": rounds, "local_steps": options.steps}
        settings |= values_of(options.settings)
        shown = {key: value for key, value in settings.items() if key not in ("model_name_or_path", "rounds")}
        shown |= {"eval_every": None, "model": f"GPT-2's kind, {options.blocks} blocks, {options.width} wide"}
        result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
        if result.get("settings") != shown:
            result = {"settings": shown, "runs": {}, "naive": {}}
        data = {name: folder / f"{name}.txt" for name in NAMES}
        for repeat in range(options.repeats):
            runs = measure(settings, data, list(links.values()), folder / f"run-{repeat}")
            for text, run in zip(links, runs, strict=True):
                result["runs"].setdefault(text, []).append(run)
            if options.naive_steps:
                size = (settings["cuts"], options.batch, options.tokens)
                with NaiveProcesses(folder / "model", NAMES, *size) as naive:
                    for text, link in links.items():
                        seconds = naive.seconds_of_a_step(link, options.naive_steps)
                        result["naive"].setdefault(text, []).append(seconds)
                        print(f"naive    {link!s:<20}{seconds:7.3f} s a step", flush=True)
            result["links"] = {
                text: summary(runs, result["naive"].get(text, [])) for text, runs in result["runs"].items()
            }
            save(result, options.out)
    show(result)


if __name__ == "__main__":
    main()

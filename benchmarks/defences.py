"""Which tokens of a client's rows are answers, told by returned gradients, with and without a defence.

Labels at home, a third of each row's tokens answers. Two clients train a split SmolLM2 (135M, bfloat16) on
speeches in one process; the server attacks what it gets in the last round, and knows the defence. Defences:
a bottleneck at the cut and a tail that is pushed away from the public one, after a local warm-up, by the
description of ADMI (Gu, Ye and Liu, ICML 2026, arXiv 2606.14210); rows clipped and blurred on the gradient.
Written into the record, docs/audits/defences.json, from which docs/privacy-defences.md takes its figures.

    python benchmarks/defences.py [--seeds 0 1] [--only NAME ...] [KEY=VALUE ...]     # a minute of CPU a run
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchlib.record import machine
from defencelib.attacks import answer_places, attack
from defencelib.measures import Defence
from defencelib.training import DefendedTraining
from rich.console import Console

from splitft.common.seeds import torch_generator
from splitft.data import ClientData, Rows
from splitft.data.rows import IGNORE
from splitft.job import Job, load_job
from splitft.running.prepare import Assembly, assemble
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.public import public_rows, public_text

PLACE = Path(__file__).parents[1] / "docs" / "audits" / "defences.json"
KEYS = (
    "clients=2", "cuts=2", "devices=null", "cut_policy.method=fixed", "codec=none", "labels=client",
    "tail_blocks=1", "lora_r_cut=null", "partition={method: iid}", "padding_free=false", "max_length=48",
    "max_train_samples=400", "max_eval_samples=24", "num_sample_continuations=0",
)  # fmt: skip
ROUNDS, STEPS, WARMUP = 2, 6, 6
LEAST = 16  # tokens of a row
ROWS = 6  # of each client that are attacked: of the last round, the longest
PUBLIC = 240  # rows of public text
DEFENCES = {
    "none": Defence(),
    "rows clipped, noise 0.1": Defence(noise=0.1),
    "ADMI": Defence(warmup=WARMUP, information=3e-3, push=1.0),
    "no gradient returned": Defence(returned=False),
    "rows clipped, noise 1": Defence(noise=1.0),
    "ADMI, ten times the prices": Defence(warmup=WARMUP, information=3e-2, push=10.0),
}


def with_answers(client: ClientData, seed: int) -> ClientData:
    """Return a client of whose training rows a third of the tokens are answers, and carry loss."""
    draw, labels = torch_generator(seed, "answers", client.name), []
    rows = client.train
    for ids in rows.input_ids:
        own = ids.copy()
        own[0] = IGNORE
        own[1:][~answer_places(len(ids), draw).numpy()] = IGNORE
        labels.append(own)
    return replace(client, train=Rows(rows.input_ids, labels, rows.full_lengths, rows.records))


def prepared(job: Job, least: int = LEAST) -> Assembly:
    """Return a job's parts, with answers among the tokens of each row of `least` tokens or more."""
    start = assemble(job, Console(quiet=True))
    assert start.prepared is not None
    clients = []
    for client in start.prepared.clients:
        long = np.flatnonzero(client.train.lengths >= least)
        clients.append(with_answers(replace(client, train=client.train.select(long)), job.seed))
    return replace(start, prepared=replace(start.prepared, clients=clients))


@cache
def start_of(seed: int, changes: tuple[str, ...]) -> Assembly:
    """Return the job's parts with a seed, made once."""
    return prepared(load_job("quickstart", [*KEYS, f"seed={seed}", *changes]))


def measure(defence: Defence, seed: int, changes: list[str]) -> dict[str, Any]:
    """Train with a defence and attack it; return price and readings."""
    start = start_of(seed, tuple(changes))
    began = time.process_time()
    cut = next(iter(start.cuts.values()))
    public = public_rows(start.tokenizer, public_text(None))[:PUBLIC]
    front = ServerKnowledge(start.split_model, start.job, start.adapter, public[:40]).front(public[:40], cut)
    deviations = torch.cat([row[1:] for row in front]).std(0)
    trained = DefendedTraining(start, defence, cut, deviations).run(ROUNDS, STEPS)
    trained.seen = chosen(trained.seen)
    took = time.process_time() - began
    found = attack(start, trained, public, cut, returned=defence.returned)
    return {
        "perplexity": trained.perplexity, "nats": trained.nats, "rows": len(trained.seen), **found,
        "cpu_seconds": {"training": round(took), "attacks": round(time.process_time() - began - took)},
    }  # fmt: skip


def chosen(seen: list[Any]) -> list[Any]:
    """Return ROWS of each client's first rows of a round, the longest ones, in turn."""
    half = len(seen) // 2
    parts = [sorted(part, key=lambda row: -len(row.ids))[:ROWS] for part in (seen[:half], seen[half:])]
    return [row for pair in zip(*parts, strict=True) for row in pair]


def main() -> None:
    """Measure every defence with every seed, and write the record; what else stands in it stays."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="keys of the job")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=DEFENCES, default=list(DEFENCES))
    parser.add_argument("--out", type=Path, default=PLACE)
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    record = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {"runs": {}}
    record |= {
        "command": "python benchmarks/defences.py", "keys": [*KEYS, *options.changes], "rounds": ROUNDS,
        "steps": STEPS, "warmup": WARMUP, "machine": machine(),
    }  # fmt: skip
    for name in options.only:
        for seed in options.seeds:
            found = measure(DEFENCES[name], seed, options.changes)
            record["runs"].setdefault(name, {})[str(seed)] = found
            places = {key: round(own["auc"], 3) for key, own in found.get("places", {}).items()}
            text = {key: round(own["value"], 3) for key, own in found["text"].items()}
            print(
                f"{name}, seed {seed}: perplexity {found['perplexity']:.2f}, nats {found['nats']}, "
                f"text {text}, places {places}, {found['cpu_seconds']}",
                flush=True,
            )
            options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

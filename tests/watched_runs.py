"""Folders of runs as their processes leave them, written with the classes that write real ones."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitft.cuts.observe import ClientState, Decision, Observation
from splitft.history import ClientRecord, RoundRecord

HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m"  # a name that a client may give itself


def record(round_: int, cuts: Mapping[str, int], perplexity: float | None, **changes: Any) -> RoundRecord:
    """Return the record of a round in which all clients trained."""
    values: dict[str, Any] = {
        "round": round_,
        "cohort": tuple(cuts) if round_ else (),
        "cuts": dict(cuts),
        "loss": 3.0 if round_ else None,
        "perplexity": perplexity,
        "accuracy": 0.25,
        "paper_accuracy": 0.25,
        "clients": {
            name: ClientRecord(cut, 3.0 if round_ else None, perplexity, 0.25, 0.25, 100 * round_, 50, None)
            for name, cut in cuts.items()
        },
        "train_tokens": 100 * len(cuts) * round_,
        "bytes_up": 1000,
        "bytes_down": 500,
        "bytes_adapter_up": 10,
        "bytes_adapter_down": 10,
        "bytes": {"up": {"activations": 900, "evaluation": 100}, "down": {"gradients": 500}},
        "round_seconds": 2.0,
        "evaluation_seconds": 1.0,
        "virtual_seconds": None,
        "waited_for": None,
        "queued_behind": None,
        "truncation_error": {},
        "eval_rows": 10,
        "held_out_rows": 10,
        "perplexity_interval": 0.0,
        "perplexity_change": None if not round_ else -0.1 * round_,
        "change_interval": 0.01,
    }
    return RoundRecord(**{**values, **changes})


def decision(round_: int, before: Mapping[str, int], after: Mapping[str, int]) -> Decision:
    """Return the record of a decision that moves these cuts."""
    clients = tuple(ClientState(name, cut, 7, None) for name, cut in before.items())
    reasons = {name: f"target {cut}: {before[name]} -> {cut}" for name, cut in after.items()}
    targets = {name: float(cut) for name, cut in after.items()}
    return Decision(
        round_, "makespan", {}, Observation(round_, 8, clients), targets, dict(after), reasons, {}
    )


def write_run(folder: Path, cuts: Sequence[Mapping[str, int]], **job: Any) -> Path:
    """Write a run whose rounds had these cuts, as an old one: without a live file and without its end."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"model_name_or_path": "m", "rounds": 4, "local_steps": 2, "method": "splitft", **job}
    (folder / "job.yaml").write_text(json.dumps(values))
    for round_, now in enumerate(cuts):
        add_round(folder, record(round_, now, 50.0 * 0.9**round_))
        if round_:
            add_decision(folder, decision(round_, cuts[round_ - 1], now))
    return folder


def add_round(folder: Path, made: RoundRecord) -> None:
    with (folder / "history.jsonl").open("a") as file:
        file.write(made.to_json() + "\n")


def add_decision(folder: Path, made: Decision) -> None:
    with (folder / "decisions.jsonl").open("a") as file:
        file.write(made.to_json() + "\n")


def live(
    cuts: Mapping[str, int], *, round_: int = 1, phase: str = "training", **changes: Any
) -> dict[str, Any]:
    """Return what a live file holds whose clients have all taken the first of two steps."""
    clients = {
        name: {
            "round": round_,
            "step": 0,
            "loss": 2.5,
            "at": 1.0,
            "steps_per_second": 2.0,
            "tokens_per_second": 64.0,
            "bytes_up": 700,
            "bytes_down": 300,
        }
        for name in cuts
    }
    return {
        "process": os.getpid(),
        "names": list(cuts),
        "blocks": 8,
        "phase": phase,
        "round": round_,
        "cohort": list(cuts),
        "cuts": dict(cuts),
        "started": 1.0,
        "at": 2.0,
        "rounds": 4,
        "steps": 2,
        "tokens_per_second": 128.0,
        "seconds_left": 60.0,
        "waiting_for": [],
        "bytes": {"up": {"activations": 7000}, "down": {"gradients": 3000}},
        "clients": clients,
        "notices": [],
        **changes,
    }


def write(folder: Path, name: str, values: Any) -> None:
    """Write a JSON file whole, as the run's process does."""
    temporary = folder / f".{name}.new"
    temporary.write_text(json.dumps(values))
    temporary.replace(folder / name)


def lock(folder: Path, process: int) -> None:
    """Write the lock that a process of this machine holds, or has left."""
    (folder / ".lock").write_text(f"process {process} on {socket.gethostname()}\n")


def states(run: Mapping[str, Any]) -> dict[str, int]:
    """Return how many clients of a state are in which state of theirs."""
    return dict(Counter(row["state"] for row in run["clients"].values()))

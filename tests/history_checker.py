"""Checks what a server did, from its step log: every step took effect once, and averages hold it all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from splitft import Job

Place = tuple[int, int, int]  # round, step, micro-step


def read_steps(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "steps.jsonl").read_text().splitlines()]


def effective_rounds(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what stands of the log: for each average {clients that started, their places, their rows}.

    A rewind takes back what its clients did since they started; a resume, the rounds after the checkpoint.
    """
    rounds: list[dict[str, Any]] = []
    started: list[str] = []
    places: dict[str, list[Place]] = {}
    for line in lines:
        match line["event"]:
            case "start":
                started += line["clients"]
                places |= {client: [] for client in line["clients"]}
            case "rewind":
                places |= {client: [] for client in line["clients"]}
            case "backward":
                places[line["client"]].append((line["round"], line["step"], line["micro_step"]))
            case "aggregate":
                rounds.append({"started": started, "places": places, "rows": line["rows"]})
                started, places = [], {}
            case "resume":
                rounds, started, places = rounds[: line["rounds"]], [], {}
    return rounds


def check_history(run_dir: Path, job: Job) -> None:
    """Each step once and in order; whole rounds, averaged with what was seen of them."""
    check_lines(read_steps(run_dir), job)


def parts_of(job: Job) -> int:
    """Return the parts of each batch, as a job states them."""
    stated = job.micro_batches if isinstance(job.micro_batches, int) else 1
    return min(stated, job.per_device_train_batch_size)


def check_lines(lines: Iterable[dict[str, Any]], job: Job, all_clients: Collection[str] = ()) -> None:
    """Check the lines of a step log. all_clients: none of these may be missing in any round."""
    rounds = effective_rounds(lines)
    assert len(rounds) == job.rounds, f"{len(rounds)} rounds"
    steps = job.local_steps * job.gradient_accumulation_steps
    for number, entry in enumerate(rounds, start=1):
        assert len(entry["started"]) == len(set(entry["started"])), "a client started a round twice"
        for client, rows in entry["rows"].items():
            assert client in entry["places"], f"round {number}: {client} did not start it"
            parts = len(entry["places"][client]) // steps if job.micro_batches == "auto" else parts_of(job)
            wanted = [
                (number, step, micro_step)
                for step in range(job.local_steps)
                for micro_step in range(job.gradient_accumulation_steps * parts)
            ]
            assert parts and entry["places"][client] == wanted, f"round {number}, {client}"
            assert rows > 0
        missing = [client for client in all_clients if client not in entry["rows"]]
        assert not missing, f"round {number} went on without {missing}"
        fewest = min(job.network.min_clients or 1, job.clients_per_round or job.clients)
        assert len(entry["rows"]) >= fewest, f"round {number}: no quorum"
        left_out = set(entry["started"]) - set(entry["rows"])
        assert all(not entry["places"][client] for client in left_out), "a client that is left out took steps"
    assert max(Counter(client for entry in rounds for client in entry["rows"]).values()) <= job.rounds

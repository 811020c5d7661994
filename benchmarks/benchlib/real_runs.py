"""Runs of a server and clients as processes with quotas and links of their own, timed by the wall's clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchlib.processes import Link, Processes
from benchlib.quotas import Used, cpu_seconds, open_quotas
from splitft import Job
from splitft.job import dump_job

LOOK_EVERY = 0.05  # seconds: the benchmark's own process must stay small
SERVER = "server"


@dataclass(frozen=True)
class Party:
    """cores: its quota. link: a client's; None: the server. threads: of torch."""

    name: str
    cores: float
    link: Link | None = None
    threads: int = 1


def run_real(settings: Mapping[str, Any], parties: Sequence[Party], folder: Path) -> dict[str, Any]:
    """Run a job, the server first among the parties; return its rounds and what everybody used.

    Seconds count from the moment at which all clients are ready. Only then do the quotas hold: what comes
    before them (start of a process, imports, weights, the proof) is told apart, at full speed.
    """
    server, *clients = parties
    rounds: list[dict[str, Any]] = []
    began = time.monotonic()
    with (
        open_quotas() as quotas,
        Processes(
            settings, {c.name: None for c in clients}, folder, server_threads=server.threads
        ) as running,
    ):
        for client, proxy in zip(clients, running.proxies, strict=True):
            if client.link is not None:
                client.link.lay([proxy])
        running.wait_until_ready()
        ready = time.monotonic()
        for party, pid in zip(parties, running.pids, strict=True):
            quotas.add(party.name, party.cores, pid)
        before, machine_before, own_before = quotas.used(), psutil.cpu_times(), time.process_time()
        try:
            for round_ in range(int(settings["rounds"]) + 1):
                record = running.record_of(round_, look_every=LOOK_EVERY)
                used = {name: now.since(before[name]) for name, now in quotas.used().items()}
                rounds.append(_row(record, time.monotonic() - ready, used))
            seconds = time.monotonic() - ready
            machine = psutil.cpu_times()
            own = time.process_time() - own_before
        finally:
            quotas.lift()
    busy = sum(machine[:3]) + sum(machine[5:8]) - sum(machine_before[:3]) - sum(machine_before[5:8])
    ours = sum(of_one.cpu_seconds for of_one in used.values()) + own
    return {
        "start_seconds": ready - began,
        "seconds": seconds,
        "rounds": rounds,
        "parties": {p.name: _account(p, used[p.name], seconds) for p in parties},
        "benchmark_cores": own / seconds,  # with the proxies
        "others_cores": (busy - ours) / seconds,  # on this machine, and no part of the run
    }


def _row(record: Mapping[str, Any], seconds: float, used: Mapping[str, Used]) -> dict[str, Any]:
    kept = ("round", "perplexity", "cuts", "round_seconds", "evaluation_seconds", "train_tokens",
            "bytes_up", "bytes_down", "eval_rows")  # fmt: skip
    cpu = {name: of_one.cpu_seconds for name, of_one in used.items()}
    return {"seconds": seconds, **{key: record[key] for key in kept}, "cpu_seconds": cpu}


def _account(party: Party, used: Used, seconds: float) -> dict[str, Any]:
    """Return what a party used. at_quota: share of the time, at its quota's pace; the rest it waited."""
    return {
        **asdict(used),
        "quota_cores": party.cores,
        "cores": used.cpu_seconds / seconds,
        "at_quota": used.cpu_seconds / party.cores / seconds,
    }


def run_whole(settings: Mapping[str, Any], folder: Path, threads: int) -> list[dict[str, Any]]:
    """Run a job in one process; return the records of its rounds."""
    folder.mkdir(parents=True)
    dump_job(Job(**{**settings, "output_dir": str(folder / "run")}), folder / "job.yaml")
    command = [sys.executable, "-m", "splitft.launch", "run", str(folder / "job.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NO_COLOR": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the run in one process failed:\n{done.stderr[-3000:]}")
    lines = (folder / "run" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def run_free(
    settings: Mapping[str, Any], names: Sequence[str], folder: Path, server_threads: int
) -> list[dict[str, float]]:
    """Run a job without quotas and links; return {party: CPU seconds} of each round, without start-up.

    `wall` is no party: the seconds that the round took.
    """
    found: list[dict[str, float]] = []
    with Processes(settings, dict.fromkeys(names), folder, server_threads=server_threads) as running:
        before: list[float] = []
        for round_ in range(int(settings["rounds"]) + 1):
            record = running.record_of(round_, look_every=0.01)
            now = [cpu_seconds(pid) for pid in running.pids]
            if before:
                used = [late - early for late, early in zip(now, before, strict=True)]
                found.append(
                    {**dict(zip((SERVER, *names), used, strict=True)), "wall": record["round_seconds"]}
                )
            before = now
    return found

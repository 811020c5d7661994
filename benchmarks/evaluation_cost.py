"""What evaluation costs of a job over a network: bytes by phase, CPU seconds by phase, and the intervals.

SmolLM2 in bfloat16, State of the Union, `splitft server` and two `splitft client` processes on loopback; all
other keys have their defaults but those given. CPU seconds (user and system) of all three processes are read
in the server where an evaluation begins and where a round ends: evaluation lies between, start-up before the
first. Bytes are the ledger's.

    python benchmarks/evaluation_cost.py [KEY=VALUE ...]

It writes results/evaluation_cost.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from benchlib.processes import free_port

from splitft import Job, load_job
from splitft.job import dump_job
from splitft.running import runner
from splitft.running.serve import serve

CLIENTS = ("client-0", "client-1")
RESULTS = Path(__file__).parent / "results" / "evaluation_cost.json"
# A data set of 890 rows that two parties share, which ten rounds of ten steps see twice.
SETTINGS: dict[str, Any] = {
    "model_name_or_path": "builtin:smollm2-135m", "dataset_name": "builtin:sotu", "bf16": True, "clients": 2,
    "max_train_samples": 800, "max_eval_samples": 90, "privacy": "server_reads",
}  # fmt: skip


def serve_and_note(job: Path, address: str, marks: Path) -> None:
    """Be the server; note the CPU seconds of all processes where evaluations begin and rounds end."""

    class Noting(runner.RunProgress):
        def on_evaluation(self, round_: int) -> None:
            note("evaluation", round_)
            super().on_evaluation(round_)

        def on_round(self, record: Any) -> None:
            note("round", record.round)
            super().on_round(record)

    def note(event: str, round_: int) -> None:
        parent = psutil.Process().parent()
        every = [p.cpu_times() for p in parent.children() if p.is_running()]
        line = {"event": event, "round": round_, "cpu": sum(times.user + times.system for times in every)}
        with marks.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    runner.RunProgress = Noting  # type: ignore[misc]
    serve(load_job(job), address)


def measure(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the job, and return its figures."""
    job, marks, address = folder / "job.yaml", folder / "marks.jsonl", f"localhost:{free_port()}"
    dump_job(Job(**settings, output_dir=str(folder / "run")), job)
    commands = [[sys.executable, __file__, "--serve", str(job), address, str(marks)]]
    commands += [
        [
            sys.executable, "-m", "splitft.launch", "client", "--server", address, "--name", name,
            "--job-data", "--accept", "first", "--folder", str(folder / name),
        ]
        for name in CLIENTS
    ]  # fmt: skip
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        for process in processes:
            if process.wait():
                raise SystemExit(f"a process ended with {process.returncode}")
    finally:
        for process in processes:
            process.kill()

    # CPU seconds by phase: the last ones of a client, after the end, are not counted.
    cpu = {"start-up": 0.0, "training": 0.0, "evaluation": 0.0}
    before, phase = 0.0, "start-up"
    for line in map(json.loads, marks.read_text(encoding="utf-8").splitlines()):
        cpu[phase] += line["cpu"] - before
        before, phase = line["cpu"], "evaluation" if line["event"] == "evaluation" else "training"
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    history = [json.loads(line) for line in (folder / "run" / "history.jsonl").read_text().splitlines()]
    ways = summary["bytes_by_phase"].values()
    sent = {phase: sum(way[phase] for way in ways) for phase in ("training", "evaluation", "both")}
    kept = ("round", "perplexity", "perplexity_interval", "perplexity_change", "change_interval", "eval_rows")
    return {
        "settings": settings,
        "bytes": sent,
        "evaluation_share_of_bytes": sent["evaluation"] / sent["both"],
        "cpu_seconds": cpu,
        "evaluation_share_of_cpu": cpu["evaluation"] / sum(cpu.values()),
        "perplexity": {name: value for name, value in summary.items() if name.startswith("perplexity")},
        "rounds": [{name: line[name] for name in kept} for line in history],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--serve", nargs=3, metavar=("JOB", "ADDRESS", "MARKS"), help=argparse.SUPPRESS)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    if options.serve:
        job, address, marks = options.serve
        serve_and_note(Path(job), address, Path(marks))
        return
    changes = {name: json.loads(value) for name, value in (c.split("=", 1) for c in options.changes)}
    with tempfile.TemporaryDirectory() as folder:
        found = measure(SETTINGS | changes, Path(folder))
    print(json.dumps(found, indent=1))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

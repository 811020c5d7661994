"""`run(job)`: everything around the rounds: data, model, proof of the split, and what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from splitft.errors import JobError
from splitft.history import RoundRecord, strict_json, summarise
from splitft.job import Job
from splitft.output import append_line, check_output_dir, write_atomically
from splitft.quiet import quiet_libraries

if TYPE_CHECKING:
    from splitft.adapters import Adapter
    from splitft.assemble import Assembly
    from splitft.parties import Parties


@dataclass(frozen=True)
class RunResult:
    """What a run made. history: one record a round, the first before training.

    adapter_path: the adapter's folder; with `method: local_only` the folder of every client's.
    """

    output_dir: Path
    adapter_path: Path
    history: list[RoundRecord]
    summary: dict[str, Any]


def run(job: Job, *, console: Console | None = None) -> RunResult:
    """Fine-tune as the job says, all parties in this process, and write the results to `output_dir`.

    console: where progress is shown; `Console(quiet=True)` shows nothing. An interrupt, and a cut policy that
    fails in a later round, keep the adapter and the history of the last complete round, and are raised again.
    Raises JobError, DataError, ModelError, OutputError.
    """
    console = console or Console()
    folder = check_output_dir(job.output_dir)
    quiet_libraries()

    from splitft.assemble import assemble
    from splitft.export import usage_hints
    from splitft.parties import make_parties
    from splitft.progress import RunProgress, final_tables
    from splitft.report.curves import perplexity_picture
    from splitft.round import run_rounds

    start = assemble(job, console)
    console.print(proof_line(start), highlight=False)
    parties = make_parties(start)
    output = _Output(folder, start, parties)
    with RunProgress(job, len(start.names), parties.ledger, console) as progress:
        try:
            rounds = run_rounds(job, parties.policy, parties.server, parties.cohort, parties.ledger, progress)
            for record in rounds:
                output.add(record)
        except (KeyboardInterrupt, JobError) as stop:  # a cut policy may fail in any round
            if output.records:
                output.save()  # the stop may have come between the writing of two files
                perplexity_picture(output.records, folder / "perplexity.png")
                progress.__exit__(None, None, None)
                done = output.records[-1].round
                how = "stopped" if isinstance(stop, JobError) else "interrupted"
                console.print(f"{how} after round {done}; its results are in {folder}")
            raise
    perplexity_picture(output.records, folder / "perplexity.png")
    for table in final_tables(output.records):
        console.print(table)
    adapters = "adapters" if job.method == "local_only" else "adapter"
    console.print(
        f"Results in {folder}: {adapters}/, history.jsonl, summary.json, perplexity.png, partition.png"
    )
    if adapters == "adapter":
        hints = usage_hints(folder, start.base, job.lora_r)
        console.print(hints, highlight=False, soft_wrap=True, markup=False)
    return RunResult(folder, folder / adapters, output.records, output.save())


class _Output:
    """The run folder while it is filled: after every round all of it is as of that round."""

    def __init__(self, folder: Path, start: Assembly, parties: Parties) -> None:
        from splitft.data import partition_picture
        from splitft.job import dump_job

        self.folder = folder
        self.start = start
        self.parties = parties
        self.records: list[RoundRecord] = []
        self._finished: Mapping[str, Adapter] = {}  # of the last record; an interrupted round may be averaged
        self._decisions = 0
        dump_job(start.job.model_copy(update={"clients": len(start.names)}), folder / "job.yaml")
        report = start.prepared.report
        write_atomically(folder / "partition.json", json.dumps(report.to_dict(), indent=1))
        partition_picture(report, folder / "partition.png")

    def add(self, record: RoundRecord) -> None:
        """Write a round: its line, the decisions that led to it, the adapter and the summary."""
        self.records.append(record)
        self._finished = self.parties.adapters()
        for decision in self.parties.policy.decisions[self._decisions :]:
            append_line(self.folder / "decisions.jsonl", decision.to_json())
        self._decisions = len(self.parties.policy.decisions)
        append_line(self.folder / "history.jsonl", record.to_json())
        self.save()

    def save(self) -> dict[str, Any]:
        """Write the adapter and the summary of the last whole round; return the summary."""
        from splitft.export import save_adapter
        from splitft.modelcard import model_card
        from splitft.random_models import is_random

        start, report = self.start, self.start.report
        cuts = self.records[-1].cuts or {}
        summary = summarise(self.records) | {
            "method": start.job.method,
            "interrupted": len(self.records) <= start.job.rounds,
            "clients": len(start.names),
            "cuts": cuts,
            "blocks": report.num_blocks,
            "split": {"max_logit_difference": report.max_logit_difference, "inputs": report.server_inputs},
            "bytes": self.parties.ledger.by_kind(),
            "parameters": parameter_counts(start.model, start.adapter, cuts),
            "random_weights": is_random(start.job.model_name_or_path),
            "notices": start.notices,
            "device": str(start.model.device),
            "versions": versions(),
        }
        card = model_card(start.job, summary, start.base)
        for name, adapter in self._finished.items():
            save_adapter(self.folder / name, adapter, start.slots, start.job, start.targets, card, start.base)
        write_atomically(self.folder / "summary.json", strict_json(summary, indent=1))
        return summary


def proof_line(start: Assembly) -> str:
    """Say what was proven of the split."""
    report = start.report
    return (
        f"split proven on the model itself at cuts {', '.join(map(str, report.cuts))} of {report.num_blocks} "
        f"blocks: largest logit difference {report.max_logit_difference:g}"
    )


def parameter_counts(model: Any, adapter: Mapping[int, Any], cuts: Mapping[str, int]) -> dict[str, Any]:
    """Return counts of base and adapter parameters, and of those that each client trains."""
    per_block = {block: sum(t.numel() for t in tensors.values()) for block, tensors in adapter.items()}
    base = sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name)
    clients = {name: sum(n for b, n in per_block.items() if b < cut) for name, cut in cuts.items()}
    return {"base": base, "adapter": sum(per_block.values()), "front_adapters": clients}


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("splitft", "torch", "transformers", "peft", "datasets")}

"""`run(job)`: everything around the rounds: data, model, proof of the split, and what is written."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from splitft.common.checkpoint import FOLDER, save_checkpoint
from splitft.common.draining import Draining
from splitft.common.failpoints import failpoint
from splitft.common.files import append_line, flush, write_atomically
from splitft.common.notebook import make_console
from splitft.common.notices import Notice
from splitft.common.quiet import quiet_libraries
from splitft.data import partition_picture
from splitft.errors import DataError, DivergedError, JobError
from splitft.history import RoundRecord, strict_json, summarise
from splitft.job import Job, JobSource, dump_job, make_job
from splitft.lora.blocks import Adapter
from splitft.lora.optimizer import schedule_of_all_rounds
from splitft.round import run_rounds
from splitft.running.batching import batch_tokens
from splitft.running.callbacks import Callback
from splitft.running.ending import adapter_changed, diverges_again, missing_line, stop_line, unchanged_line
from splitft.running.events import CallbackHandler, run_callbacks
from splitft.running.export import model_card, save_adapter, tokenizer_files, usage_hints
from splitft.running.folder import (
    DECISIONS,
    HISTORY,
    PARTITION,
    SUMMARY,
    Opened,
    check_rounds,
    open_run,
    read_records,
    read_summary,
    take_back,
)
from splitft.running.given import Given
from splitft.running.headline import headline, parameter_counts
from splitft.running.live import LiveFile, Notices
from splitft.running.meters import Meter
from splitft.running.methods import with_method
from splitft.running.parties import Parties, make_parties
from splitft.running.picture import perplexity_picture
from splitft.running.predictions import ComputeMetrics, Preprocess
from splitft.running.prepare import Assembly, assemble, note
from splitft.running.private import privacy_summary, spent_by
from splitft.running.progress import RunProgress, clients_table, evaluation_lines, rounds_table
from splitft.running.result import RunResult
from splitft.running.samples import sample_continuations
from splitft.weights.random_models import is_random

_VERSIONED = ("splitft", "torch", "transformers", "peft", "datasets")  # packages that a result depends on


def run(
    job: JobSource,
    *,
    model: Any = None,
    tokenizer: Any = None,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    compute_metrics: ComputeMetrics | None = None,
    preprocess_logits_for_metrics: Preprocess | None = None,
    callbacks: Sequence[Callback | type[Callback]] = (),
    console: Console | None = None,
    resume: bool = False,
    meter: Meter | None = None,
    **changes: Any,
) -> RunResult:
    """Fine-tune as the job says, all parties in this process, and write the results to `output_dir`.

    job: a Job, a mapping of its keys, a job file, or the name of a recipe.
    model, tokenizer: objects of transformers in the place of those that `model_name_or_path` names. The model
        is left as it was.
    train_dataset, eval_dataset: in the place of the job's data and its evaluation set: a `datasets.Dataset`,
        a list of rows (texts or {column: value}), or {client: one of these}.
    compute_metrics: as of transformers' Trainer: from an `EvalPrediction` to {name: number}. After every
        evaluation it is called with the rows of each client that were evaluated, and with all of them. The
        numbers stand in `metrics` of history, summary and trackers, by Trainer's names (eval_NAME).
        predictions: logits, (rows, tokens, vocabulary). label_ids: (rows, tokens), not shifted. Both have
        -100 beyond a row's end. Rows are in the order of the clients and of their held-out rows.
    preprocess_logits_for_metrics: from the logits and labels of one row, (1, tokens, vocabulary) and
        (1, tokens), to what is kept of it as predictions. Without it memory must hold all logits.
    callbacks: called at the run's events, beside those that the job names.
    console: where progress is shown; `Console(quiet=True)` shows nothing.
    resume: go on with the run in `output_dir` from its last checkpoint, to the same result, bit by bit, as if
        it had never been cut off; a run that is complete is returned as it is, or extended where the job now
        has more rounds.
    meter: reads after rounds how much of the text clients' activations tell, into `readable` of the history.
    changes: keys of the job that are to have other values, as KEY=VALUE on the command line.

    An interrupt, a cut policy or a callback that fails in a later round, and training that diverges keep the
    adapter and the history of the last complete round, and are raised again.
    Raises JobError, DataError, ModelError, OutputError, DivergedError.
    """
    console = console or make_console()
    given = Given(
        model, tokenizer, train_dataset, eval_dataset, compute_metrics, preprocess_logits_for_metrics
    )
    job = with_method(make_job(job, given.changes() | changes))
    called = run_callbacks(job, callbacks)
    with open_run(job, resume=resume) as opened:
        if opened.complete:
            return complete_run(opened, job, console, model)
        if opened.diverged:
            raise diverges_again(opened.folder)
        quiet_libraries()
        start = assemble(job, console, given=given)
        tokens = batch_tokens(start.job, start.split_model, start.report.cuts, console)
        parties = make_parties(start, batch_tokens=tokens)
        if meter:
            meter.begin(start)
        return replace(run_parties(opened, start, parties, console, called, meter=meter), _base=model)


def run_parties(
    opened: Opened,
    start: Assembly,
    parties: Parties,
    console: Console,
    callbacks: Sequence[Callback] = (),
    notices: Notices | None = None,
    *,
    meter: Meter | None = None,
) -> RunResult:
    """Run the rounds with these parties, and write the results.

    notices: those so far, and later ones. meter: has begun.
    """
    job, folder = start.job, opened.folder
    check_rounds(folder, opened.rounds, job.rounds, job.dp)
    console.print(headline(start))
    done = opened.checkpoint.round if opened.checkpoint else -1
    progress = RunProgress(job, len(start.names), parties.ledger, console, done)
    notices = notices or Notices()
    said = [text for _, text in notices.last]
    notices.last.extend((time.time(), text) for text in start.notices if text not in said)
    policy, names = parties.policy, () if parties.cohort.open else start.names
    live = LiveFile(folder, job, names, start.num_blocks, progress, notices, lambda: policy.decisions)
    with CallbackHandler(job, callbacks, live) as events, live, progress:
        events.begin(folder, done)  # before anything is written
        output = _Output(folder, start, parties)
        output.go_on(opened, console)
        live.begin()
        last = output.records[-1] if output.records else None
        try:
            for record in run_rounds(
                job,
                parties.policy,
                parties.server,
                parties.cohort,
                parties.ledger,
                events,
                last,
                start.predictions.figures if start.predictions else None,
                spent_by(job, last),
            ):
                if meter and (read := meter.read(record, parties.adapters()["adapter"])):
                    record = replace(record, readable={name: dict(own) for name, own in read.items()})
                    for line in meter.lines(record):
                        progress.line(line)
                output.add(record)
                events.on_written(record, folder)
        except (KeyboardInterrupt, JobError, DivergedError) as stop:  # a cut policy may fail in any round
            if output.records:
                # The stop may have come between the writing of two files.
                output.save(str(stop) if isinstance(stop, DivergedError) else None)
                if not isinstance(stop, Draining):  # which has little time
                    perplexity_picture(output.records, folder / "perplexity.png")
                progress.stop()
                told = stop_line(stop, folder, output.records[-1].round)
                console.print(Notice(told, "stopped", "warning"), highlight=False)
            raise
    perplexity_picture(output.records, folder / "perplexity.png")
    console.print(rounds_table(output.records))
    console.print(clients_table(output.records))
    for line in evaluation_lines(output.records, parties.ledger):
        console.print(line, highlight=False, markup=False)
    adapters = adapter_folder(job)
    made = f"{adapters}/, history.jsonl, summary.json, perplexity.png"
    made += ", partition.png" if start.prepared else ""
    console.print(Notice(f"Results in {folder}: {made}", "results", folder=str(folder)))
    summary = output.save()
    if not summary["adapter_changed"]:
        console.print(unchanged_line(job), style="bold yellow", highlight=False, markup=False)
    elif adapters == "adapter":
        hints = usage_hints(folder, start.base, job, start.model.config)
        console.print(hints, highlight=False, soft_wrap=True, markup=False)
    if summary["missing"]:
        line = missing_line(summary["missing"], len(start.names))
        console.print(line, style="bold yellow", highlight=False, markup=False)
    events.end(summary)
    return RunResult(folder, folder / adapters, output.records, summary)


def complete_run(opened: Opened, job: Job, console: Console, model: Any = None) -> RunResult:
    """Return what a run that is complete has made. model: the object that it was given, if any."""
    folder, records = opened.folder, read_records(opened.folder)
    picture, history = folder / "perplexity.png", folder / HISTORY
    if not picture.exists() or picture.stat().st_mtime_ns < history.stat().st_mtime_ns:  # killed at its end
        perplexity_picture(records, picture)
    console.print(
        Notice(f"the run in {folder} is complete: nothing is left to do", "complete"), highlight=False
    )
    adapter = folder / adapter_folder(job)
    return RunResult(folder, adapter, records, read_summary(folder), _base=model)


def extension_line(job: Job, was: int, done: int) -> str:
    """Return one line on a run that now has more rounds. was: its rounds before. done: the last round."""
    line = f"the run of {was} round{'s' * (was > 1)} is extended to {job.rounds}"
    if schedule_of_all_rounds(job):
        line += (
            f"; from round {done + 1} on, the learning rate is that of a run of {job.rounds} rounds "
            f"(lr_scheduler_type {job.lr_scheduler_type})"
        )
    return line


def adapter_folder(job: Job) -> str:
    """Return the folder of a run's adapter, or of the clients' own where none is averaged."""
    return "adapters" if job.method == "local_only" else "adapter"


class _Output:
    """The run folder while it is filled: after every round all of it is as of that round."""

    def __init__(self, folder: Path, start: Assembly, parties: Parties) -> None:
        self.folder = folder
        self.start = start
        self.parties = parties
        self.records: list[RoundRecord] = []
        self._finished: Mapping[str, Adapter] = {}  # of the last record; an interrupted round may be averaged
        self._decisions = 0
        self._samples: list[dict[str, str]] = []
        self._beside = tokenizer_files(start.tokenizer)
        dump_job(start.job.model_copy(update={"clients": len(start.names)}), folder / "job.yaml")
        if start.prepared:
            report = start.prepared.report
            partition = json.dumps(asdict(report), indent=1)
            before = folder / PARTITION
            if before.exists() and json.loads(before.read_text(encoding="utf-8")) != json.loads(partition):
                raise DataError(
                    f"the data are not those of the run in {folder} (see its {PARTITION}): put the same data "
                    "back, or start again with another output_dir"
                )
            write_atomically(before, partition)
            partition_picture(report, folder / "partition.png")

    def go_on(self, opened: Opened, console: Console) -> None:
        """Take all parties and files back to the checkpoint, or to the start where there is none."""
        found = opened.checkpoint
        self.records = take_back(self.folder, found.round if found else -1)
        if found is None:
            return
        self.parties.load_state(found.state)
        self._decisions = len(self.parties.policy.decisions)
        for problem in found.passed_over:
            note(console, f"checkpoint {problem}; an older one is whole")
        told = Notice(f"going on after round {found.round}", "resumed", round=found.round)
        console.print(told, highlight=False)
        if opened.rounds < self.start.job.rounds:
            console.print(extension_line(self.start.job, opened.rounds, found.round), highlight=False)

    def add(self, record: RoundRecord) -> None:
        """Write a round: its line, the decisions that led to it, the adapter and the summary."""
        self.records.append(record)
        self._finished = self.parties.adapters()
        for decision in self.parties.policy.decisions[self._decisions :]:
            append_line(self.folder / DECISIONS, decision.to_json())
        self._decisions = len(self.parties.policy.decisions)
        append_line(self.folder / HISTORY, record.to_json())
        failpoint("run.recorded")
        job = self.start.job
        last = record.round == job.rounds  # kept for a run that is extended
        if last:
            self._samples = self._continuations()
        self.save()
        if job.save_every and (last or record.round % job.save_every == 0):
            self.parties.cohort.save(record.round + 1, last=last)
            keep = 1 if last else job.save_total_limit
            save_checkpoint(self.folder / FOLDER, record.round, self.parties.state(), keep=keep)

    def _continuations(self) -> list[dict[str, str]]:
        """Continue held-out rows with the adapter of the start and the last one, where the rows are here."""
        start = self.start
        count, last = start.job.num_sample_continuations, self._finished.get("adapter")
        if not count or not start.prepared or last is None:
            return []
        samples, problem = sample_continuations(
            count, start.clients, start.tokenizer, start.split_model, start.adapter, last
        )
        if problem:
            start.notices.append(f"no sample continuations: {problem}")
        return samples

    def save(self, diverged: str | None = None) -> dict[str, Any]:
        """Write the adapter and the summary of the last whole round; return the summary.

        diverged: what was not finite after that round.
        """
        start, report = self.start, self.start.report
        cuts = self.records[-1].cuts or {}
        summary = summarise(self.records) | {
            "method": start.job.method_name or start.job.method,
            "interrupted": len(self.records) <= start.job.rounds,
            "diverged": diverged,
            "adapter_changed": adapter_changed(start.adapter, self._finished),
            "clients": len(start.names),
            "missing": self.parties.missing(),
            "cuts": cuts,
            "blocks": report.num_blocks,
            "split": {"max_logit_difference": report.max_logit_difference, "inputs": report.server_inputs},
            "bytes": self.parties.ledger.by_kind(),
            "bytes_by_phase": self.parties.ledger.by_phase(),
            "parameters": parameter_counts(start.model, start.adapter, cuts),
            "random_weights": is_random(start.job.model_name_or_path),
            "notices": start.notices,
            **({"data": start.prepared.report.summary()} if start.prepared else {}),
            "device": str(start.device),
            "versions": {name: version(name) for name in _VERSIONED},
        }
        if software := self.parties.software():
            summary["client_versions"] = software
        if self.parties.self_reported:
            summary["self_reported"] = [key for key in self.parties.self_reported if key in summary]
        if self._samples:
            summary["samples"] = self._samples
        if privacy := privacy_summary(start.job, self.records[-1], self.parties.cohort.train_rows):
            summary["privacy"] = privacy
        card = model_card(start.job, summary, start.base, start.model.config)
        for name, adapter in self._finished.items():
            of = start.split_model.slots, start.job, card, start.base, self._beside
            save_adapter(self.folder / name, adapter, *of)
            flush(self.folder / name)
        write_atomically(self.folder / SUMMARY, strict_json(summary, indent=1), flushed=True)
        return summary

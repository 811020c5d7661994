"""`splitft audit`: what the server could read of a job's rows, measured on the job's own messages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from splitft.common.files import writable_folder, write_atomically
from splitft.common.notebook import make_console
from splitft.common.quiet import quiet_libraries
from splitft.errors import ModelError, ReadableError
from splitft.history import strict_json
from splitft.job import JobSource, make_job
from splitft.running.methods import with_method
from splitft.running.prepare import Assembly, assemble, note
from splitft.tools.audit import tables
from splitft.tools.audit.attacks.ids import id_fields, read_back
from splitft.tools.audit.attacks.inverter import Inverter, make_inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.attacks.labels import ITERATIONS, labels_of
from splitft.tools.audit.attacks.verify import Noise, measure_noise, repair
from splitft.tools.audit.attacks.view import ClientView
from splitft.tools.audit.capture import audited, capture, true_rows
from splitft.tools.audit.lines import INVERTER, LABELS, SENT_AS_TEXT, VERIFY, Line, TruthOf, truth_of
from splitft.tools.audit.nulls import Null, check_meter
from splitft.tools.audit.public import public_rows

ROWS = 48
VERIFIED, SOLVED = 8, 4  # rows of a client in the slower attacks
SAMPLES = 3


@dataclass(frozen=True)
class Found:
    """All that an audit found."""

    lines: list[Line]
    nulls: list[Null]
    samples: list[dict[str, str]]  # true and recovered text


def audit_command(
    job: JobSource,
    *,
    rows: int = ROWS,
    public: Path | None = None,
    prior: float = 0.0,
    out: Path | None = None,
    fail_above: float | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Print what the server could read of a job's first local step; return it as JSON values.

    job: as of `run`. rows: of each client, the first MOST_TOKENS tokens of each. public: text for the
    inverter. prior: weight of the model's log probability in the attack that verifies. out: folder for
    audit.json and audit.md. fail_above: the excess over guessing above which ReadableError is raised, after
    all is written. Raises JobError, DataError, ModelError, OutputError.
    """
    quiet_libraries()
    console = console or make_console()
    folder = writable_folder(out, "--out") if out else None
    began = time.perf_counter()
    start = assemble(audited(with_method(make_job(job)), rows), console)
    if start.job.splits_model and start.job.codec is None:
        note(console, "the job states no codec: audited without one; over a network its default is int8")
    with console.status("reading public text"):
        knowledge = ServerKnowledge(
            start.split_model, start.job, start.adapter, public_rows(start.tokenizer, public)
        )
    with console.status("taking the first local step of every client"):
        views = capture(start)
    found = _attack_all(start, knowledge, views, rows, prior, console)
    told = _told(found, start, rows, time.perf_counter() - began)
    console.print(tables.lines_table(found.lines))
    console.print(tables.nulls_table(found.nulls) if found.nulls else "")
    for line in tables.closing(told):
        console.print(line, highlight=False, markup=False)
    if folder:
        write_atomically(folder / "audit.json", strict_json(told, indent=1))
        write_atomically(folder / "audit.md", tables.page(told))
        console.print(f"Audit in {folder}: audit.json, audit.md", highlight=False)
    worst = max((line.reading.tokens.excess for line in found.lines if line.reading), default=0.0)
    if fail_above is not None and worst > fail_above:
        raise ReadableError(
            f"an attack reads {worst:.0%} of tokens beyond guessing, and --fail-above allows {fail_above:.0%}"
        )
    return told


def _attack_all(
    start: Assembly,
    knowledge: ServerKnowledge,
    views: Sequence[ClientView],
    rows: int,
    prior: float,
    console: Console,
) -> Found:
    """Attack each client; check the meter and take samples with the first one."""
    if not any(view.activations for view in views):
        return Found([Line("all clients", None, "text", "", None, "no activations are sent")], [], [])
    lines: list[Line] = []
    nulls: list[Null] = []
    samples: list[dict[str, str]] = []
    tools: dict[int, tuple[Inverter, Noise]] = {}
    own_rows = {client.name: client.train.input_ids for client in start.clients}
    for view in views:
        with console.status(f"attacking what {view.name} sends at cut {view.cut}"):
            if view.cut not in tools:
                sent = knowledge.through_codec(knowledge.front(knowledge.public, view.cut))
                tools[view.cut] = (
                    make_inverter(knowledge, view.cut, sent), measure_noise(knowledge, view.cut)
                )  # fmt: skip
            own = [ids.tolist() for ids in own_rows[view.name]]
            truth = truth_of(knowledge, true_rows(start, view), own, rows)
            guesses = attack_text(knowledge, view, truth.places, *tools[view.cut], prior)
            lines += _lines(start, knowledge, view, truth, guesses)
            if not nulls:
                came = [view.rows[place] for place in truth.places]
                words = len(knowledge.embeddings)
                nulls = check_meter(truth, guesses[INVERTER], came, tools[view.cut][0], start.job.seed, words)
                samples = _samples(start, truth, guesses[VERIFY])
    return Found(lines, nulls, samples)


def attack_text(
    knowledge: ServerKnowledge,
    view: ClientView,
    places: Sequence[int],
    inverter: Inverter,
    noise: Noise,
    prior: float,
) -> dict[str, list[Tensor]]:
    """Return {attack: the ids that it reads}, of the samples at these places of a client's messages."""
    came = [view.rows[place] for place in places]
    return {
        INVERTER: [inverter.candidates(own, 1)[:, 0] for own in came],
        VERIFY: repair(knowledge, view.cut, came[:VERIFIED], inverter, noise, prior),
    }


def _lines(
    start: Assembly,
    knowledge: ServerKnowledge,
    view: ClientView,
    truth: TruthOf,
    guesses: dict[str, list[Tensor]],
) -> list[Line]:
    """Return one client's lines: text by ids, by the inverter and by verifying; then labels."""
    seed, name, cut = start.job.seed, view.name, view.cut
    fields: dict[str, list[Tensor]] = {}
    for message in view.up:
        for field, ids in id_fields(message, len(knowledge.embeddings)).items():
            fields.setdefault(field, []).append(ids)
    lines: list[Line] = []
    for field, parts in fields.items():
        seen = torch.cat(parts)
        reading = truth.score([read_back(row.ids, seen) for row in truth.rows], seed)
        if reading.tokens.excess > 0:
            lines.append(Line(name, cut, "text", SENT_AS_TEXT, reading, f"sent as text: {field}"))
    if not lines:
        lines.append(Line(name, cut, "text", SENT_AS_TEXT, None))
    lines += [Line(name, cut, "text", how, truth.score(guess, seed)) for how, guess in guesses.items()]
    if start.job.labels == "client" and view.tail_gradients:
        try:
            found = labels_of(knowledge, view, start.job.num_tail_blocks, SOLVED, ITERATIONS)
        except ModelError as error:
            lines.append(Line(name, cut, "labels", LABELS, None, f"not tried: {error}"))
        else:
            known = [place for place in truth.places if place < len(found)]
            reading = truth.score([found[place] for place in known], seed, labels=True)
            lines.append(Line(name, cut, "labels", LABELS, reading))
    return lines


def _samples(start: Assembly, truth: TruthOf, guess: Sequence[Tensor]) -> list[dict[str, str]]:
    def text(ids: Tensor) -> str:
        return str(start.tokenizer.decode(ids.tolist()))

    pairs = list(zip(truth.rows, guess, strict=False))[:SAMPLES]
    return [{"true": text(row.ids), "recovered": text(other)} for row, other in pairs]


def _told(found: Found, start: Assembly, rows: int, seconds: float) -> dict[str, Any]:
    return {
        "lines": [line.to_json() for line in found.lines],
        "checks": [null.to_json() for null in found.nulls],
        "samples": found.samples,
        "rows": rows,
        "model": start.job.model_name_or_path,
        "codec": start.job.codec,
        "labels": start.job.labels,
        "seconds": round(seconds, 1),
        "not_tried": list(tables.NOT_TRIED),
    }

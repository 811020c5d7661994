"""All attacks on what the server was given by each client, scored beside the true rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from splitft.errors import ModelError
from splitft.running.prepare import Assembly
from splitft.tools.audit.attacks.ids import id_fields
from splitft.tools.audit.attacks.inverter import Inverter, make_inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.attacks.labels import labels_of
from splitft.tools.audit.attacks.verify import Noise, measure_noise, repair
from splitft.tools.audit.attacks.view import ClientView
from splitft.tools.audit.capture import true_rows
from splitft.tools.audit.lines import INVERTER, LABELS, SEEN, SENT_AS_TEXT, VERIFY, Line, TruthOf, truth_of
from splitft.tools.audit.nulls import Null, check_meter

VERIFIED, SOLVED = 8, 4  # rows of a client in the slower attacks
BLOCK_ROWS = 32  # rows × blocks of a front in the attack that verifies: fewer rows at deeper cuts
SAMPLES = 3


@dataclass(frozen=True)
class Found:
    """All that an audit found."""

    lines: list[Line]
    nulls: list[Null]
    samples: list[dict[str, str]]  # true and recovered text


def attack_all(
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
    with console.status("making an inverter of public text for every cut"):
        fronts = knowledge.fronts(knowledge.public, sorted({view.cut for view in views}))
        tools: dict[int, tuple[Inverter, Noise]] = {}
        for cut in sorted(fronts):
            sent = knowledge.through_codec(fronts.pop(cut))
            tools[cut] = make_inverter(knowledge, sent), measure_noise(knowledge, cut)
    own_rows = {client.name: client.train.input_ids for client in start.clients}
    for view in views:
        with console.status(f"attacking what {view.name} sends at cut {view.cut}"):
            own = [ids.tolist() for ids in own_rows[view.name]]
            truth = truth_of(knowledge, true_rows(start, view), own, rows)
            guesses = attack_text(knowledge, view, truth.places, *tools[view.cut], prior)
            lines += _lines(start, knowledge, view, truth, guesses)
            if not nulls:
                came = view.samples(truth.places)
                known = tools[view.cut][0], start.job.seed, knowledge.vocabulary
                nulls = check_meter(truth, guesses[INVERTER], came, *known)
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
    came = view.samples(places)
    few = min(VERIFIED, max(2, BLOCK_ROWS // view.cut))
    return {
        INVERTER: [inverter.candidates(own, 1)[:, 0] for own in came],
        VERIFY: repair(knowledge, view.cut, came[:few], inverter, noise, prior),
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
    lines = [
        Line(name, cut, "text", SENT_AS_TEXT, truth.score(guess, seed), f"sent as text: {field}")
        for field, guess in _held(knowledge, view, truth).items()
    ]
    lines = lines or [Line(name, cut, "text", SENT_AS_TEXT, None)]
    lines += [Line(name, cut, "text", how, truth.score(guess, seed)) for how, guess in guesses.items()]
    if start.job.labels == "client":
        lines.append(_label_line(start, knowledge, view, truth))
    return lines


def _held(knowledge: ServerKnowledge, view: ClientView, truth: TruthOf) -> dict[str, list[Tensor]]:
    """Return {field: the rows as its reader has them}, of the fields that hold ids of the rows."""
    fields: dict[str, list[Tensor]] = {}
    for message in view.up:
        for field, ids in id_fields(message, knowledge.vocabulary).items():
            fields.setdefault(field, []).append(ids)
    read = {field: truth.held_by(torch.cat(parts)) for field, parts in fields.items()}
    return {field: guess for field, (share, guess) in read.items() if share >= SEEN}


def _label_line(start: Assembly, knowledge: ServerKnowledge, view: ClientView, truth: TruthOf) -> Line:
    """Return the line of the labels that a client keeps at home."""
    name, cut, seed = view.name, view.cut, start.job.seed
    try:
        found = labels_of(knowledge, view, start.job.num_tail_blocks, SOLVED)
    except ModelError as error:
        return Line(name, cut, "labels", LABELS, None, str(error), tried=False)
    known = [found[place] for place in truth.places if place < len(found)]
    if not known:
        return Line(name, cut, "labels", LABELS, None, "no gradients of a tail", tried=False)
    return Line(name, cut, "labels", LABELS, truth.score(known, seed, labels=True))


def _samples(start: Assembly, truth: TruthOf, guess: Sequence[Tensor]) -> list[dict[str, str]]:
    def text(ids: Tensor) -> str:
        return str(start.tokenizer.decode(ids.tolist()))

    pairs = list(zip(truth.rows, guess, strict=False))[:SAMPLES]
    return [{"true": text(row.ids), "recovered": text(other)} for row, other in pairs]

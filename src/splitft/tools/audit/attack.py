"""All attacks on what the server was given by each client, scored beside the true rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from torch import Tensor

from splitft.errors import ModelError
from splitft.running.prepare import Assembly
from splitft.tools.audit.attacks.inverter import Inverter, make_inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.attacks.labels import PublicTail, gradient_norms, labels_of
from splitft.tools.audit.attacks.verify import Noise, measure_noise, repair
from splitft.tools.audit.attacks.view import ClientView
from splitft.tools.audit.capture import MOST_TOKENS, true_rows
from splitft.tools.audit.haystacks import Haystack, of_message
from splitft.tools.audit.lines import (
    INVERTER,
    LABELS,
    NORMS,
    NOT_TRIED,
    SEEN,
    SENT_AS_TEXT,
    VERIFY,
    Line,
    TruthOf,
    truth_of,
)
from splitft.tools.audit.metrics import auc, auc_verdict
from splitft.tools.audit.nulls import Null, check_meter
from splitft.tools.audit.search import RowSearch

VERIFIED, SOLVED = 8, 4  # rows of a client in the slower attacks
ALL_VERIFIED, ALL_SOLVED, FEWEST = 16, 8, 2  # of all clients together; of a client at least
SAMPLES = 3

Tools = Mapping[int, tuple[Inverter, Noise]]  # by cut


@dataclass
class Found:
    """All that an audit found. samples: true and recovered text."""

    lines: list[Line] = field(default_factory=list)
    nulls: list[Null] = field(default_factory=list)
    samples: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Victim:
    """One client in an audit: what it sent, and what is true."""

    view: ClientView
    truth: TruthOf
    came: list[Tensor]  # (tokens, hidden) of each of the truth's rows


def attack_all(
    start: Assembly,
    knowledge: ServerKnowledge,
    views: Sequence[ClientView],
    rows: int,
    prior: float,
    console: Console,
    *,
    longest: bool = False,
) -> tuple[Found, Tools]:
    """Attack each client; check the meter and take samples with the first one.

    Returns what was found, and the tools of each cut. longest: as of `truth_of`.
    """
    if not any(view.activations for view in views):
        return Found([Line("all clients", None, "text", "", None, "no activations are sent")]), {}
    # What all clients of a cut have in common; the rows that are attacked.
    with console.status("making an inverter of public text for every cut"):
        tools = make_tools(knowledge, sorted({view.cut for view in views}))
    victims = [victim_of(start, knowledge, view, rows, longest=longest) for view in views]
    texts: dict[str, dict[str, list[Tensor]]] = {}
    for cut in tools:
        own = [victim for victim in victims if victim.view.cut == cut]
        with console.status(f"attacking what {', '.join(v.view.name for v in own)} sent at cut {cut}"):
            few = few_of(VERIFIED, ALL_VERIFIED, len(victims))
            texts |= attack_text(knowledge, cut, own, tools[cut], few, prior)

    # Each client's lines, in the job's order.
    found = Found()
    tail = public_tail(knowledge, start.job.num_tail_blocks) if start.job.labels == "client" else None
    for victim in victims:
        seed, name, cut = start.job.seed, victim.view.name, victim.view.cut
        search = RowSearch(start.tokenizer, [row.ids for row in victim.truth.rows], short=True)
        found.lines += sent_as_text(victim, search, seed)
        for how, guess in texts[name].items():
            found.lines.append(Line(name, cut, "text", how, victim.truth.score(guess, seed)))
        if tail is not None:
            with console.status(f"solving for the labels of {name}"):
                solved = few_of(SOLVED, ALL_SOLVED, len(victims))
                found.lines.append(label_line(knowledge, victim, tail, solved, seed))
            found.lines += answer_lines(victim, seed)
        if not found.nulls:
            inverter = tools[cut][0]
            found.nulls = check_meter(
                victim.truth, texts[name][INVERTER], victim.came, inverter, seed, search
            )
            found.samples = _samples(start, victim.truth, texts[name][VERIFY])
    return found, tools


def few_of(most: int, of_all: int, clients: int) -> int:
    """Return the rows of each client in a slow attack."""
    return min(most, max(FEWEST, of_all // clients))


def make_tools(knowledge: ServerKnowledge, cuts: Sequence[int]) -> Tools:
    """Return the inverter of each cut, and the noise of what comes."""
    fronts = knowledge.fronts(knowledge.public, cuts)
    tools = {}
    for cut in cuts:
        sent = knowledge.through_codec(fronts.pop(cut))
        tools[cut] = make_inverter(knowledge, sent), measure_noise(knowledge, cut)
    return tools


def victim_of(
    start: Assembly, knowledge: ServerKnowledge, view: ClientView, rows: int, *, longest: bool = False
) -> Victim:
    """Return a client as it is attacked, with `rows` rows at most."""
    data = next(client for client in start.clients if client.name == view.name)
    own = [ids.tolist() for ids in data.train.input_ids]
    truth = truth_of(knowledge, true_rows(start, view), own, rows, longest=longest)
    return Victim(view, truth, view.samples(truth.places, MOST_TOKENS))


def attack_text(
    knowledge: ServerKnowledge,
    cut: int,
    victims: Sequence[Victim],
    tools: tuple[Inverter, Noise],
    few: int,
    prior: float,
) -> dict[str, dict[str, list[Tensor]]]:
    """Return {client: {attack: the ids that it reads}} of clients at one cut.

    few: rows of each that are verified, all together.
    """
    inverter, noise = tools
    chosen = [victim.came[:few] for victim in victims]
    repaired = iter(repair(knowledge, cut, [one for came in chosen for one in came], inverter, noise, prior))
    return {
        victim.view.name: {
            INVERTER: [inverter.candidates(own, 1)[:, 0] for own in victim.came],
            VERIFY: [next(repaired) for _ in came],
        }
        for victim, came in zip(victims, chosen, strict=True)
    }


def sent_as_text(victim: Victim, search: RowSearch, seed: int) -> list[Line]:
    """Return a line of each field of a client's messages that holds ids or text of its rows, or one line."""
    fields: dict[str, Haystack] = defaultdict(lambda: Haystack(""))
    for message in victim.view.up:
        for hay in of_message(message):
            fields[hay.name].take(hay)
    name, cut, truth = victim.view.name, victim.view.cut, victim.truth
    tokens, lines = max(1, sum(len(row.ids) for row in truth.rows)), []
    for place, hay in fields.items():
        for what, read in (("ids", search.as_ids(hay.numbers)), ("characters", search.as_text(hay.texts))):
            if sum(int((own >= 0).sum()) for own in read.values()) >= SEEN * tokens:
                note = f"sent as text: {what} in {place}"
                reading = truth.score(truth.filled(read), seed)
                lines.append(Line(name, cut, "text", SENT_AS_TEXT, reading, note))
    return lines or [Line(name, cut, "text", SENT_AS_TEXT, None)]


def public_tail(knowledge: ServerKnowledge, tail_blocks: int) -> PublicTail | str:
    """Return the public tail, or why there is none."""
    try:
        return PublicTail(knowledge, tail_blocks)
    except ModelError as error:
        return str(error)


def label_line(
    knowledge: ServerKnowledge, victim: Victim, tail: PublicTail | str, rows: int, seed: int
) -> Line:
    """Return the line of the labels that a client keeps at home."""
    name, cut, truth = victim.view.name, victim.view.cut, victim.truth
    if isinstance(tail, str):
        return Line(name, cut, "labels", LABELS, None, tail, NOT_TRIED)
    found = labels_of(knowledge, victim.view, tail, truth.places[:rows])
    if not found:
        return Line(name, cut, "labels", LABELS, None, "no gradients of a tail", NOT_TRIED)
    own = truth.only([number for number, place in enumerate(truth.places) if place in found])
    return Line(name, cut, "labels", LABELS, own.score(list(found.values()), seed, labels=True))


def answer_lines(victim: Victim, seed: int) -> list[Line]:
    """Return the line that tells which tokens are answers by their gradients; none where all tokens are."""
    norms, truth = gradient_norms(victim.view), victim.truth
    own = [
        (norms[place], row) for place, row in zip(truth.places, truth.rows, strict=True) if place < len(norms)
    ]
    flags = [(row.labels[1:] >= 0).tolist() for _, row in own]
    if not own or all(map(all, flags)):
        return []
    scores = [norm[: len(row.ids) - 1].tolist() for norm, row in own]  # a token's loss is of the next one
    value, low, high = auc(scores, flags, seed)
    note = f"AUC {value:.2f} [{low:.2f}, {high:.2f}] on {len(own)} rows, 0.50 by guessing"
    return [Line(victim.view.name, victim.view.cut, "answers", NORMS, None, note, auc_verdict(low))]


def _samples(start: Assembly, truth: TruthOf, guess: Sequence[Tensor]) -> list[dict[str, str]]:
    def text(ids: Tensor) -> str:
        return str(start.tokenizer.decode(ids.tolist()))

    pairs = list(zip(truth.rows, guess, strict=False))[:SAMPLES]
    return [{"true": text(row.ids), "recovered": text(other)} for row, other in pairs]

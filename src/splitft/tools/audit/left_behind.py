"""What a run left on a disk: every file is searched for the rows, and kept activations are attacked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from splitft.running.prepare import Assembly, possible_cuts
from splitft.tools.audit.attack import VERIFIED, Tools, make_tools
from splitft.tools.audit.attacks.inverter import Inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.attacks.stored import at_scale, kept_rows, likeness
from splitft.tools.audit.attacks.verify import repair
from splitft.tools.audit.capture import TrueRow
from splitft.tools.audit.haystacks import of_folder
from splitft.tools.audit.lines import INVERTER, NOT_FOUND, VERIFY, Line, TruthOf
from splitft.tools.audit.metrics import rare_tokens
from splitft.tools.audit.nulls import same_moments
from splitft.tools.audit.search import RowSearch

IN_IDS, IN_TEXT, IN_ACTIVATIONS = "files: ids", "files: text", "files: kept activations"
ALL = "all clients"
MOST_ROWS = 48  # of a client that are scored in a line
ENOUGH, HALF = 24, 0.5  # tokens of a row, or their share, that must be found: fewer are a phrase of many rows
MOST_TENSORS = 96  # that are attacked, those most like activations first
NAMED = 3  # files that a line names
LEAST_SHARE, MARGIN = 0.3, 0.05  # of the tokens of a row, and beyond noise: before a tensor is this row's
CLEAR = 0.5  # share of a row's tokens from which on no other cut is tried


@dataclass(frozen=True)
class OwnRows:
    """All rows of all clients, training rows and held-out rows.

    Args:
        of: The client of each row.
        ids: (tokens,) each.
        rare: Rare tokens of each client.
    """

    of: list[str]
    ids: list[Tensor]
    rare: dict[str, set[int]]

    @classmethod
    def all(cls, start: Assembly) -> OwnRows:
        """Return the rows of a job."""
        names, ids, rare = [], [], {}
        for client in start.clients:
            rare[client.name] = rare_tokens([row.tolist() for row in client.train.input_ids])
            for part in (client.train, client.eval):
                ids += [torch.as_tensor(row).long() for row in part.input_ids]
                names += [client.name] * len(part.input_ids)
        return cls(names, ids, rare)

    def truth(self, knowledge: ServerKnowledge, rows: Sequence[int]) -> TruthOf:
        """Return the truth of some rows of one client."""
        ids = [self.ids[row] for row in rows]
        model = knowledge.likeliest_next(ids)
        return TruthOf([TrueRow(own, own) for own in ids], list(rows), model, self.rare[self.of[rows[0]]])

    def by_client(self, rows: Iterable[int]) -> dict[str, list[int]]:
        """Return {client: its rows of these}."""
        found: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            found[self.of[row]].append(row)
        return found


@dataclass(frozen=True)
class Trace:
    """Where something of the rows was found. read: {row: ids as far as they were found, -1 elsewhere}."""

    files: list[str]
    read: dict[int, Tensor]


def audit_folder(
    start: Assembly, knowledge: ServerKnowledge, folder: Path, tools: Tools, without: Collection[str] = ()
) -> tuple[list[Line], list[str]]:
    """Return the lines of what a run left in a folder, and what of it was not tried.

    tools: of some cuts; those of others are made where they are needed. without: files of the folder that are
    none of the run's.
    """
    rows, traces = OwnRows.all(start), {IN_IDS: Trace([], {}), IN_TEXT: Trace([], {})}
    search, kept, left, files = RowSearch(start.tokenizer, rows.ids), dict[str, Tensor](), list[str](), 0
    # Ids and text, file by file; tensors that could be activations.
    for hay in of_folder(folder, without):
        files += 1
        left += [f"the rest of {name}, a large file" for name in hay.left]
        found = {IN_IDS: search.as_ids(hay.numbers), IN_TEXT: search.as_text(hay.texts)}
        for how, read in found.items():
            read = {row: own for row, own in read.items() if tells(own)}
            traces[how].files.extend([hay.name] if read else [])
            for row, own in read.items():
                known = traces[how].read.get(row, own)
                traces[how].read[row] = torch.where(own >= 0, own, known)
        kept |= {f"{hay.name} {n}": one for n, one in kept_rows(hay.tensors, knowledge.model.width).items()}
    lines = [
        line
        for how, trace in traces.items()
        for line in _search_lines(start, knowledge, rows, how, trace, files)
    ]
    # Kept activations, at each cut that the job may choose.
    if len(kept) > MOST_TENSORS:
        left.append(f"{len(kept) - MOST_TENSORS} tensors of activations' width, those least like them")
    cuts = [
        cut for cut in possible_cuts(start.job, start.cuts.values(), start.num_blocks) if cut not in tools
    ]
    tools = {**tools, **(make_tools(knowledge, cuts) if kept and cuts else {})}
    return [*lines, *_kept_lines(start, knowledge, rows, kept, tools)], left


def tells(read: Tensor) -> bool:
    """Whether the ids of a row that were found are more than a phrase."""
    count = int((read >= 0).sum())
    return count >= ENOUGH or count >= HALF * len(read)


def _search_lines(
    start: Assembly, knowledge: ServerKnowledge, rows: OwnRows, how: str, trace: Trace, files: int
) -> list[Line]:
    """Return a line of each client whose rows were found."""
    lines = []
    for name, own in rows.by_client(trace.read).items():
        own.sort(key=lambda row: -int((trace.read[row] >= 0).sum()))
        truth = rows.truth(knowledge, own[:MOST_ROWS])
        guess = truth.filled({number: trace.read[row] for number, row in enumerate(own[:MOST_ROWS])})
        note = f"{len(own)} rows in {named(trace.files)}"
        lines.append(Line(name, None, "text", how, truth.score(guess, start.job.seed), note))
    searched = f"{files} files searched"
    return lines or [Line(ALL, None, "text", how, None, searched, NOT_FOUND)]


def named(files: Sequence[str]) -> str:
    """Return the names of files, of many the first ones."""
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(files[:NAMED]) + more


@dataclass(frozen=True)
class Match:
    """A tensor that is a row's. guess: (tokens,) ids that the inverter reads."""

    name: str
    rows: Tensor
    cut: int
    row: int
    guess: Tensor


def _kept_lines(
    start: Assembly, knowledge: ServerKnowledge, rows: OwnRows, kept: Mapping[str, Tensor], tools: Tools
) -> list[Line]:
    """Return the lines of kept activations: each client's by the inverter, and verified."""
    if not kept:
        note = f"no tensor of width {knowledge.model.width} with 16 rows"
        return [Line(ALL, None, "text", IN_ACTIVATIONS, None, note, NOT_FOUND)]
    inverters = {cut: inverter for cut, (inverter, _) in tools.items()}
    likely = sorted(kept, key=lambda n: -max(likeness(kept[n], one) for one in inverters.values()))
    found = find_rows({name: kept[name] for name in likely[:MOST_TENSORS]}, inverters, rows, start.job.seed)
    if not found:
        note = f"{len(kept)} tensors of activations' width, none is read as a row"
        return [Line(ALL, None, "text", IN_ACTIVATIONS, None, note, NOT_FOUND)]
    lines = []
    by_row = {match.row: match for match in found}
    for name, own in rows.by_client(by_row).items():
        for cut in sorted({by_row[row].cut for row in own}):
            matches = [by_row[row] for row in own if by_row[row].cut == cut][:MOST_ROWS]
            truth = rows.truth(knowledge, [match.row for match in matches])
            files = sorted({match.name.partition(" ")[0] for match in matches})
            inverter, noise = tools[cut]
            few = [match.rows for match in matches[:VERIFIED]]
            guesses = {
                INVERTER: [match.guess for match in matches],
                VERIFY: repair(knowledge, cut, few, inverter, noise),
            }
            for how, guess in guesses.items():
                note = f"{how}; {len(own)} rows in {named(files)}"
                reading = truth.score(guess, start.job.seed)
                lines.append(Line(name, cut, "text", IN_ACTIVATIONS, reading, note))
    return lines


def find_rows(
    kept: Mapping[str, Tensor], inverters: Mapping[int, Inverter], rows: OwnRows, seed: int
) -> list[Match]:
    """Return the tensors that an inverter reads as one of the true rows.

    A tensor is the row of its length that most of its tokens stand in, where more of them do than of noise
    with the tensors' moments.
    """
    lengths: dict[int, list[int]] = defaultdict(list)
    for row, ids in enumerate(rows.ids):
        lengths[len(ids)].append(row)
    alike = {length: torch.stack([rows.ids[row] for row in own]) for length, own in lengths.items()}

    def nearest(guess: Tensor) -> tuple[float, int]:
        """Return the share of the tokens of the nearest row, the first one left out, and which it is."""
        if len(guess) not in alike:
            return 0.0, -1
        share, place = (alike[len(guess)][:, 1:] == guess[1:]).float().mean(1).max(0)
        return float(share), lengths[len(guess)][int(place)]

    # Each tensor at the cut that reads it best, the last one that read any first.
    found, cuts = list[Match](), list(inverters)
    for name, own in kept.items():
        best: tuple[float, Match | None] = (LEAST_SHARE, None)
        for cut in list(cuts):
            scaled = at_scale(own, inverters[cut])
            guess = inverters[cut].candidates(scaled, 1)[:, 0]
            share, row = nearest(guess)
            if share <= best[0]:
                continue
            (noise,) = same_moments([scaled], seed)  # the nearest of all rows is near to anything
            if share > nearest(inverters[cut].candidates(noise, 1)[:, 0])[0] + MARGIN:
                best = share, Match(name, scaled, cut, row, guess)
                cuts.remove(cut)
                cuts.insert(0, cut)
            if share >= CLEAR:
                break
        if best[1] is not None:
            found.append(best[1])
    return found

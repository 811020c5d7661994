"""Attack on what clients redact: the server reads the rest of a row, and guesses what is missing.

Nothing that is sent is computed from a redacted token, so no attack inverts one. A server can still guess it
from the text around it. The truth comes from the same job without redaction, and from no message. (ours)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from torch import Tensor

from splitft.data import Prepared, prepare
from splitft.data.redaction.redaction import neutral_token
from splitft.job.redaction import RedactConfig
from splitft.running.prepare import Assembly
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.lines import Line
from splitft.tools.audit.metrics import Reading, rare_tokens, read

BEFORE, BOTH, EVERYBODY = "the words before", "the words on both sides", "all clients"
GUESSED = 16  # rows with something redacted
CANDIDATES = 8  # likeliest tokens at a place that are tried with the word after it


@dataclass(frozen=True)
class Place:
    """One redacted place of a row.

    Attributes:
        before: (tokens,) visible ids before the place; at least one.
        after: The visible id after it; None at a row's end.
        true: The redacted ids.
        floor: What the model expects in their place after the true tokens before.
    """

    before: Tensor
    after: int | None
    true: list[int]
    floor: list[int]


def hidden_places(
    knowledge: ServerKnowledge, redacted: Prepared, whole: Prepared, neutral: int, most: int
) -> list[list[Place]]:
    """Return the redacted places of rows, row by row, with something visible before each.

    Args:
        redacted, whole: The data of a job, and of the same job without redaction: a row is found again by its
            record, whatever client has it.
        neutral: The id that stands for what is redacted.
        most: Rows at most.
    """
    pairs: list[tuple[list[int], list[int]]] = []
    for side in ("train", "eval"):
        own, seen = _by_record(whole, side), _by_record(redacted, side)
        pairs += [(ids, own[record]) for record, ids in seen.items() if record in own and neutral in ids]
    pairs = pairs[:most]
    likely = knowledge.likeliest_next([torch.tensor(true) for _, true in pairs])
    return [
        [
            Place(
                torch.tensor([token for token in seen[:place] if token != neutral]),
                next((token for token in seen[place + 1 :] if token != neutral), None),
                true[start:end],
                next_[start - 1 : end - 1].tolist(),
            )
            for place, (start, end) in aligned(seen, true, neutral).items()
            if start and any(token != neutral for token in seen[:place])
        ]
        for (seen, true), next_ in zip(pairs, likely, strict=True)
    ]


def aligned(seen: Sequence[int], true: Sequence[int], neutral: int) -> dict[int, tuple[int, int]]:
    """Return {place of a neutral token in `seen`: the [start, end) of `true` that it stands for}."""
    places = {}
    for tag, low, high, start, end in SequenceMatcher(None, seen, true, autojunk=False).get_opcodes():
        if tag == "replace" and neutral in seen[low:high]:
            places[seen.index(neutral, low, high)] = (start, end)
    return places


def score_hidden(
    knowledge: ServerKnowledge, rows: Sequence[Sequence[Place]], rare: set[int], neutral: int, seed: int
) -> dict[str, Reading]:
    """Return what each attack guesses of the redacted tokens, beside the floor.

    The attacker is given the visible tokens without a mistake, and the number of tokens of each place.
    """
    truth = [[token for place in row for token in place.true] for row in rows]
    floors = {"the model's next token": [[token for place in row for token in place.floor] for row in rows]}
    flat = [place for row in rows for place in row]
    found = {}
    for name, both in ((BEFORE, False), (BOTH, True)):
        guesses = iter(guess(knowledge, flat, neutral, both=both))
        by_row = [[token for _ in row for token in next(guesses)] for row in rows]
        found[name] = read(truth, by_row, floors, rare, seed)
    return found


def guess(
    knowledge: ServerKnowledge, places: Sequence[Place], neutral: int, *, both: bool
) -> list[list[int]]:
    """Return a guess of each place's tokens, one after another by what the model expects.

    both: of the last token, the likeliest candidates are also tried with the visible token after the place.
    """
    texts = [place.before for place in places]
    for number in range(max((len(place.true) for place in places), default=0)):
        live = [i for i, place in enumerate(places) if len(place.true) > number]
        expected = knowledge.next_log_probabilities([texts[i] for i in live])
        for i, log_p in zip(live, expected, strict=True):
            log_p = log_p.clone()
            log_p[neutral] = -torch.inf
            best, place = log_p.topk(CANDIDATES), places[i]
            ids, value = best.indices, best.values
            if both and place.after is not None and number == len(place.true) - 1:
                tried = knowledge.next_log_probabilities([torch.cat([texts[i], one[None]]) for one in ids])
                value = value + torch.stack([later[place.after] for later in tried])
            texts[i] = torch.cat([texts[i], ids[value.argmax()][None]])
    return [text[len(place.before) :].tolist() for text, place in zip(texts, places, strict=True)]


def _by_record(prepared: Prepared, side: str) -> dict[int, list[int]]:
    """Return {record: ids} of one side of all clients."""
    sides = [client.train if side == "train" else client.eval for client in prepared.clients]
    return {
        int(record): ids.tolist()
        for rows in sides
        for record, ids in zip(rows.records, rows.input_ids, strict=True)
    }


def redacted_lines(start: Assembly, knowledge: ServerKnowledge, rows: int) -> list[Line]:
    """Return the lines of what a job redacts, of all clients together; none where it redacts nothing.

    rows: with something redacted, at most.
    """
    if not start.job.redact.active or start.prepared is None:
        return []
    whole = prepare(start.job.model_copy(update={"redact": RedactConfig()}), start.tokenizer)
    neutral = neutral_token(start.tokenizer)
    places = hidden_places(knowledge, start.prepared, whole, neutral, min(rows, GUESSED))
    if not any(places):
        return []
    own = [ids.tolist() for client in whole.clients for ids in client.train.input_ids]
    scored = score_hidden(knowledge, places, rare_tokens(own), neutral, start.job.seed)
    return [Line(EVERYBODY, None, "redacted", f"guess by {name}", found) for name, found in scored.items()]

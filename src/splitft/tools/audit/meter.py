"""A reading after a round: how much of its rows each client's activations tell by a linear inverter.

One inverter serves a cut for the whole run, made of the base model before training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from splitft.errors import JobError
from splitft.history import RoundRecord
from splitft.lora.blocks import Adapter
from splitft.running.prepare import Assembly
from splitft.tools.audit.attacks.inverter import Inverter, make_inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import MOST_TOKENS
from splitft.tools.audit.metrics import rare_tokens
from splitft.tools.audit.public import public_rows, public_text

TOKENS = 256  # of each client, in its first rows


@dataclass(frozen=True)
class _Rows:
    """A client's rows. likely: what the base model expects at each place; rare: whether a token is rare."""

    ids: list[Tensor]
    likely: list[Tensor]
    rare: list[Tensor]


@dataclass(eq=False)
class ReadableMeter:
    """Reads every `every` rounds and after the last one: the share of tokens that an inverter names right.

    Of each client's first rows TOKENS tokens are run through its front with the round's global adapter, and
    through the job's codec, as if the client sent them next. The first token of a row does not count.
    """

    every: int = 1
    _start: Assembly | None = field(default=None, init=False)
    _knowledge: ServerKnowledge | None = field(default=None, init=False)
    _rows: dict[str, _Rows] = field(default_factory=dict, init=False)
    _inverters: dict[int, Inverter] = field(default_factory=dict, init=False)

    def begin(self, start: Assembly) -> None:
        """Take the rows, and what guessing reads of them. Raises JobError where no activations are sent."""
        if not start.job.splits_model:
            raise JobError(
                f"method {start.job.method} sends no activations: there is nothing to read of them"
            )
        public = public_rows(start.tokenizer, public_text(None))
        self._start, self._knowledge = (
            start,
            ServerKnowledge(start.split_model, start.job, start.adapter, public),
        )
        for client in start.clients:
            own, ids, count = [row.tolist() for row in client.train.input_ids], list[Tensor](), 0
            for row in own:
                if len(row) > 1 and count < TOKENS:
                    ids.append(torch.tensor(row[: min(MOST_TOKENS, TOKENS - count)]))
                    count += len(ids[-1])
            seldom = torch.tensor(sorted(rare_tokens(own)))
            rare = [torch.isin(row[1:], seldom) for row in ids]
            likely = [row[:-1] for row in self._knowledge.likeliest_next(ids)]
            self._rows[client.name] = _Rows(ids, likely, rare)

    def read(self, record: RoundRecord, adapter: Adapter) -> Mapping[str, Mapping[str, float]]:
        """Return {client: {tokens, rare, guess: shares; n: tokens}} of a round that is due."""
        start, knowledge = self._start, self._knowledge
        if start is None or knowledge is None:
            return {}
        if record.round % self.every and record.round != start.job.rounds:
            return {}
        now, found = replace(knowledge, adapter=adapter), {}
        for name, cut in (record.cuts or {}).items():
            rows, inverter = self._rows[name], self._inverter(cut)
            sent = now.through_codec(now.front(rows.ids, cut))
            guess = torch.cat([inverter.candidates(own[1:], 1)[:, 0] for own in sent])
            truth, likely, rare = (
                torch.cat(parts) for parts in ([ids[1:] for ids in rows.ids], rows.likely, rows.rare)
            )
            right = guess == truth
            found[name] = {
                "tokens": float(right.float().mean()),
                "rare": float(right[rare].float().mean()) if bool(rare.any()) else 0.0,
                "guess": float((likely == truth).float().mean()),
                "n": float(len(truth)),
            }
        return found

    def lines(self, record: RoundRecord) -> list[str]:
        """Return a line of each client's reading."""
        codec = (self._start.job.codec if self._start else None) or "none"
        return [
            f"readable {name} cut {(record.cuts or {})[name]} {codec}: {own['tokens']:.0%} of tokens "
            f"(guess {own['guess']:.0%})"
            for name, own in record.readable.items()
        ]

    def _inverter(self, cut: int) -> Inverter:
        if cut not in self._inverters:
            assert self._knowledge is not None
            sent = self._knowledge.through_codec(self._knowledge.front(self._knowledge.public, cut))
            self._inverters[cut] = make_inverter(self._knowledge, sent)
        return self._inverters[cut]

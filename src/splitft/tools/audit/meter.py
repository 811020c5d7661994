"""A reading after a round: how much of its rows each client's activations tell by a linear inverter.

One inverter serves a cut for the whole run, made of the base model before training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from splitft.errors import JobError
from splitft.history import RoundRecord
from splitft.lora.blocks import Adapter
from splitft.running.prepare import Assembly
from splitft.tools.audit.attacks.inverter import Inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.public import public_rows, public_text
from splitft.tools.audit.reading import FirstRows, inverter_at, read_through


@dataclass(eq=False)
class ReadableMeter:
    """Reads every `every` rounds and after the last one: the share of tokens that an inverter names right.

    Some tokens of each client (`FirstRows`) are run through its front with the round's global adapter, and
    through the job's codec, as if the client sent them next. The first token of a row does not count.
    """

    every: int = 1
    _start: Assembly | None = field(default=None, init=False)
    _knowledge: ServerKnowledge | None = field(default=None, init=False)
    _rows: dict[str, tuple[FirstRows, float]] = field(default_factory=dict, init=False)  # and the guess
    _inverters: dict[int, Inverter] = field(default_factory=dict, init=False)

    def begin(self, start: Assembly) -> None:
        """Take the rows, and what guessing reads of them. Raises JobError where no activations are sent."""
        if not start.job.splits_model:
            raise JobError(
                f"method {start.job.method} sends no activations: there is nothing to read of them"
            )
        public = public_rows(start.tokenizer, public_text(None))
        self._start = start
        self._knowledge = ServerKnowledge(start.split_model, start.job, start.adapter, public)
        for client in start.clients:
            rows = FirstRows.of([row.tolist() for row in client.train.input_ids])
            likely = [row[:-1] for row in self._knowledge.likeliest_next(rows.ids)]
            self._rows[client.name] = rows, rows.right(likely)["tokens"]

    def read(self, record: RoundRecord, adapter: Adapter) -> Mapping[str, Mapping[str, float]]:
        """Return {client: {tokens, rare, guess: shares; n: tokens}} of a round that is due."""
        start, knowledge = self._start, self._knowledge
        if start is None or knowledge is None:
            return {}
        if record.round % self.every and record.round != start.job.rounds:
            return {}
        now, found = replace(knowledge, adapter=adapter), {}
        for name, cut in (record.cuts or {}).items():
            rows, guess = self._rows[name]
            read = read_through(now, self._inverter(cut), rows, cut)
            found[name] = {"tokens": read["tokens"], "rare": read["rare"], "guess": guess, "n": read["n"]}
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
            self._inverters[cut] = inverter_at(self._knowledge, cut)
        return self._inverters[cut]

"""A client's own reading: how much of its rows a linear inverter names of what it sends; it stays there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from splitft.client.client import ClientRole
from splitft.lora.blocks import Adapter
from splitft.tools.audit.attacks.inverter import Inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.public import public_rows, public_text
from splitft.tools.audit.reading import FirstRows, inverter_at, read_through
from splitft.weights.load import load_tokenizer

NOTHING = "own reading: this job sends no activations, so there is nothing to read of them"


@dataclass(eq=False)
class SiteMeter:
    """Reads every `every` rounds and after the last one, with the adapters that the round began with.

    A client has no whole model to guess by: the most frequent token of its rows stands for guessing.
    """

    every: int = 1
    _rows: FirstRows | None = field(default=None, init=False)
    _knowledge: ServerKnowledge | None = field(default=None, init=False)
    _inverters: dict[int, Inverter] = field(default_factory=dict, init=False)

    def lines(self, client: ClientRole, round_: int, rounds: int) -> list[str]:
        """Return the lines of a reading after a round; empty where none is due."""
        job: Any = client.settings
        if round_ % self.every and round_ != rounds:
            return []
        if not job.splits_model:
            return [NOTHING] if round_ == rounds else []
        state = client.state()
        adapter: Adapter = state["adapter"]
        cut: int = state["cut"]
        # An inverter of a cut is made once, with the first adapter that came for it.
        if self._rows is None or self._knowledge is None:
            tokenizer = load_tokenizer(job.model_name_or_path, job.model_revision)
            public = public_rows(tokenizer, public_text(None))
            self._knowledge = ServerKnowledge(client.model, job, adapter, public)
            self._rows = FirstRows.of([row.tolist() for row in client.data.train.input_ids])
        now = replace(self._knowledge, model=client.model, adapter=adapter)
        if cut not in self._inverters:
            self._inverters[cut] = inverter_at(now, cut)
        if not self._rows.ids:
            return []
        found, guess = read_through(now, self._inverters[cut], self._rows, cut), self._rows.by_frequency()
        return [
            f"own reading after round {round_}: cut {cut}, {job.codec or 'no codec'}: a linear inverter "
            f"names {found['tokens']:.0%} of {found['n']:.0f} tokens (guess {guess:.0%}), of rare ones "
            f"{found['rare']:.0%}; other attacks read more"
        ]

"""The probe of a global adapter: forward passes of the whole model at the server, before anybody gets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import median_low

import torch

from splitft.common.seeds import torch_generator
from splitft.lora.blocks import Adapter
from splitft.model.layout import form_of
from splitft.model.split_model import SplitModel, StepId
from splitft.server.guard import EXPLODES
from splitft.server.step import evaluate_whole
from splitft.wire.messages import HeldOut, all_finite

LARGEST = 1e5  # root mean square of what leaves a block; the gate refuses a client's from ten times that on
TOKENS = 32  # of the probe's own row
MOST_CLIENTS = 8  # whose held-out rows are probed


def not_finite(old: Adapter, new: Adapter) -> str:
    """Return what is wrong with a global adapter where no model is there to try it on; empty: nothing."""
    finite = all_finite(tensor for block in new.values() for tensor in block.values())
    return "" if finite else "the average is not finite"


@dataclass(eq=False)
class AdapterProbe:
    """Compares forward passes with a new global adapter to those with the one before.

    Args:
        vocab_size: Of the model.
        max_length: Of a row.
        padding_free: How batches are laid out.
        rows: Returns a batch of held-out ids of each client, where they are at the server.
    """

    model: SplitModel
    vocab_size: int
    max_length: int
    padding_free: bool
    rows: Callable[[], Mapping[str, HeldOut]]
    _losses: dict[str, float] = field(default_factory=dict, init=False)  # with the adapter before, by client

    def problem(self, old: Adapter, new: Adapter) -> str:
        """Return what is wrong with a global adapter; empty: nothing."""
        # What leaves the last block but one, of a row of random tokens: finite, and of a size that clients
        # may send. A client whose own is not did not get that from here.
        length = min(TOKENS, self.max_length)
        ids = torch.randint(self.vocab_size, (length,), generator=torch_generator(0, "probe"))
        layout = form_of([length], self.model.device, self.padding_free)
        self.model.bind(new)
        with torch.no_grad():
            inputs = {"input_ids": layout.batch(ids.to(self.model.device)), **layout.inputs}
            place = StepId("", 0, 0, 0, train=False)
            hidden = self.model.run(0, max(1, self.model.num_blocks - 1), place, **inputs)
        size = float(torch.as_tensor(hidden).float().square().mean().sqrt())
        if not size <= LARGEST:
            return f"what leaves the blocks is not finite, or far too large ({size:.3g})"
        # The held-out loss, where the server can compute it.
        batches = dict(islice(self.rows().items(), MOST_CLIENTS))
        for name in batches.keys() - self._losses.keys():
            self._losses[name] = self._loss(name, batches[name], old)
        losses = {name: self._loss(name, batch, new) for name, batch in batches.items()}
        grown = [loss - self._losses[name] for name, loss in losses.items()]
        worse = median_low(grown) if grown else 0.0
        if not math.isfinite(sum(losses.values())) or worse > EXPLODES:
            return f"the held-out loss rises by {worse:.3g} nats a token"
        self._losses |= losses
        return ""

    def _loss(self, name: str, batch: HeldOut, adapter: Adapter) -> float:
        sums = evaluate_whole(self.model, name, batch, adapter, padding_free=self.padding_free)
        return sums.nll / max(1, sums.tokens)

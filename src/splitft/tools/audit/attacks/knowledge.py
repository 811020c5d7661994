"""What a server has beside the clients' messages: the job, the base model, the adapter, public text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from splitft.job.settings import WireSettings
from splitft.lora.blocks import Adapter
from splitft.model.split_model import SplitModel, StepId
from splitft.wire.channel import Channel
from splitft.wire.messages import Activations, TrunkOutput

_TOKENS = 2048  # of a forward, with padding
_PLACE = StepId("", 0, 0, 0, train=False)


@dataclass(frozen=True)
class ServerKnowledge:
    """What every attack may use.

    adapter: the global adapter. public: (tokens,) ids of each row of a public text.
    """

    model: SplitModel
    settings: WireSettings
    adapter: Adapter
    public: Sequence[Tensor]

    @property
    def embeddings(self) -> Tensor:
        """The (vocabulary, hidden) input embeddings, float32."""
        model: Any = self.model.model
        table: Tensor = model.get_input_embeddings().weight
        return table.detach().float()

    def front(self, rows: Sequence[Tensor], cut: int) -> list[Tensor]:
        """Return the (tokens, hidden) activations at a cut of each row of ids, float32, without a codec."""
        return [own.float() for own in self._forward(rows, cut)]

    def next_tokens(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return the (tokens, vocabulary) logits of the whole model on each row of ids."""
        return self._forward(rows, self.model.num_blocks)

    def through_codec(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return activations as they arrive through the job's own codec, float32, row by row."""
        return self._carried(rows)[0]

    def sent_down(self, rows: Sequence[Tensor], lengths_as: Sequence[Tensor]) -> list[Tensor]:
        """Return what clients get of the hidden states that the server sends them, row by row.

        lengths_as: rows of activations of the same lengths.
        """
        near, far = self._carried(lengths_as)[1]
        message = TrunkOutput(0, 0, 0, True, torch.cat(list(rows)))
        return list(torch.split(near.unpack(far.pack(message)).hidden.float(), [len(row) for row in rows]))

    def _carried(self, rows: Sequence[Tensor]) -> tuple[list[Tensor], tuple[Channel, Channel]]:
        width, lengths = rows[0].shape[-1], tuple(len(row) for row in rows)
        near, far = Channel(self.settings, width), Channel(self.settings, width)
        message = Activations(0, 0, 0, True, lengths, torch.cat(list(rows)), samples=tuple(range(len(rows))))
        got = far.unpack(near.pack(message)).hidden.float()
        return list(torch.split(got, list(lengths))), (near, far)

    @torch.no_grad()
    def _forward(self, rows: Sequence[Tensor], stop: int) -> list[Tensor]:
        self.model.bind(self.adapter)
        found: dict[int, Tensor] = {}
        for places in batches([len(row) for row in rows], _TOKENS):
            longest = max(len(rows[place]) for place in places)
            ids, mask = (
                torch.stack([functional.pad(one, (0, longest - len(one))) for one in parts])
                for parts in (
                    [rows[place] for place in places],
                    [torch.ones_like(rows[place]) for place in places],
                )
            )
            answer = self.model.run(
                0, stop, _PLACE,
                input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device),
            )  # fmt: skip
            hidden = answer if isinstance(answer, Tensor) else answer.logits
            found |= {place: own[: len(rows[place])] for place, own in zip(places, hidden, strict=True)}
        return [found[place] for place in range(len(rows))]


def batches(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Return the places of rows in batches of like length, of at most `most_tokens` with padding."""
    made: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if made and (len(made[-1]) + 1) * lengths[place] <= most_tokens:
            made[-1].append(place)
        else:
            made.append([place])
    return made

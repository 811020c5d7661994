"""What a server has beside the clients' messages: the job, the base model, the adapter, public text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
PLACE = StepId("", 0, 0, 0, train=False)


@dataclass(frozen=True)
class ServerKnowledge:
    """What every attack may use. All that its methods return lies on the CPU, float32.

    adapter: the global adapter. public: (tokens,) ids of each row of a public text.
    """

    model: SplitModel
    settings: WireSettings
    adapter: Adapter
    public: Sequence[Tensor]

    @cached_property
    def embeddings(self) -> Tensor:
        """The (vocabulary, hidden) input embeddings."""
        model: Any = self.model.model
        table: Tensor = model.get_input_embeddings().weight
        return table.detach().float().cpu()

    @cached_property
    def unit_embeddings(self) -> Tensor:
        """The same, centred and of length one."""
        return functional.normalize(self.embeddings - self.embeddings.mean(0), dim=-1)

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return len(self.embeddings)

    def front(self, rows: Sequence[Tensor], cut: int) -> list[Tensor]:
        """Return the (tokens, hidden) activations at a cut of each row of ids, without a codec."""
        return self.fronts(rows, [cut])[cut]

    def fronts(self, rows: Sequence[Tensor], cuts: Sequence[int]) -> dict[int, list[Tensor]]:
        """Return {cut: `front`} of several cuts, each block run once."""
        found: dict[int, dict[int, Tensor]] = {cut: {} for cut in cuts}
        for places, inputs in self._batches(rows):
            hidden, start = None, 0
            for cut in sorted(found):
                hidden = self._run(start, cut, hidden=hidden, **inputs)
                for place, own in zip(places, hidden, strict=True):
                    found[cut][place] = own[: len(rows[place])].flatten(1).float().cpu()
                start = cut
        return {cut: [own[place] for place in range(len(rows))] for cut, own in found.items()}

    def likeliest_next(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return the model's likeliest next token after each token of each row, (tokens,) each."""
        found: dict[int, Tensor] = {}
        for places, inputs in self._batches(rows):
            best = self._run(0, self.model.num_blocks, **inputs).logits.argmax(-1).cpu()
            found |= {place: own[: len(rows[place])] for place, own in zip(places, best, strict=True)}
        return [found[place] for place in range(len(rows))]

    def next_log_probabilities(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return the model's log probabilities of what follows each row, (vocabulary,) each."""
        found: dict[int, Tensor] = {}
        for places, inputs in self._batches(rows):
            logits = self._run(0, self.model.num_blocks, **inputs).logits
            for place, own in zip(places, logits, strict=True):
                found[place] = own[len(rows[place]) - 1].float().log_softmax(-1).cpu()
        return [found[place] for place in range(len(rows))]

    def through_codec(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return activations as they arrive through the job's own codec, row by row."""
        return self._carried(rows)[0]

    def sent_down(self, rows: Sequence[Tensor], lengths_as: Sequence[Tensor]) -> list[Tensor]:
        """Return what clients get of the hidden states that the server sends them, row by row.

        lengths_as: rows of activations of the same lengths.
        """
        near, far = self._carried(lengths_as)[1]
        message = TrunkOutput(0, 0, 0, True, torch.cat(list(rows)))
        got = near.unpack(far.pack(message)).hidden.float().cpu()
        return list(torch.split(got, [len(row) for row in rows]))

    def _carried(self, rows: Sequence[Tensor]) -> tuple[list[Tensor], tuple[Channel, Channel]]:
        width, lengths = rows[0].shape[-1], tuple(len(row) for row in rows)
        near, far = Channel(self.settings, width), Channel(self.settings, width)
        message = Activations(0, 0, 0, True, lengths, torch.cat(list(rows)), samples=tuple(range(len(rows))))
        got = far.unpack(near.pack(message)).hidden.float().cpu()
        return list(torch.split(got, list(lengths))), (near, far)

    def _batches(self, rows: Sequence[Tensor]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield the places of rows, and the model's inputs for them, padded on the right."""
        self.model.bind(self.adapter)
        for places in batches([len(row) for row in rows], _TOKENS):
            longest = max(len(rows[place]) for place in places)
            lengths = torch.tensor([len(rows[place]) for place in places])
            ids = [functional.pad(rows[place], (0, longest - len(rows[place]))) for place in places]
            mask = (torch.arange(longest)[None] < lengths[:, None]).long()
            device = self.model.device
            yield places, {"input_ids": torch.stack(ids).to(device), "attention_mask": mask.to(device)}

    @torch.no_grad()
    def _run(self, start: int, stop: int, **inputs: Any) -> Any:
        return self.model.run(start, stop, PLACE, **inputs)


def batches(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Return the places of rows in batches of like length, of at most `most_tokens` with padding."""
    made: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if made and (len(made[-1]) + 1) * lengths[place] <= most_tokens:
            made[-1].append(place)
        else:
            made.append([place])
    return made

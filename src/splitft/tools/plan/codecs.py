"""Energy, loss and bytes of every codec on one batch of a job: `splitft plan --codecs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from splitft.data import collate, train_stream
from splitft.lora.blocks import Adapter
from splitft.lora.ranks import held_blocks
from splitft.model.layout import form_of
from splitft.model.split_model import StepId
from splitft.running.prepare import Assembly
from splitft.server.step import AtCut, TrunkStep, trunk_step
from splitft.wire.codecs.codec import Codec
from splitft.wire.codecs.registry import DELTA, NONE, codec_names, make_codec
from splitft.wire.messages import Activations


@dataclass(frozen=True)
class CodecTrial:
    """A codec on one batch at the cut.

    Attributes:
        step_bytes: Activations of one local step.
        gradient_bytes: Their gradients.
        lost: Share of the activations' energy that the codec loses.
        gradient_lost: The same of the gradients.
        loss_change: Relative change of the training loss with the codec's activations.
        direction: Cosine between the gradients of the adapters above the cut, with and without the codec.
    """

    codec: str
    step_bytes: int
    gradient_bytes: int
    lost: float = 0.0
    gradient_lost: float = 0.0
    loss_change: float = 0.0
    direction: float = 1.0


def try_codecs(start: Assembly) -> list[CodecTrial]:
    """Try every codec on the first batch of the job's first client, through the blocks above its cut.

    Args:
        start: Assembled with weights.
    """
    job = start.job

    # The batch as the client sends it: rows of activations at the cut.
    data, model = start.clients[0], start.split_model
    cut, place = start.cuts[data.name], StepId(data.name, 1, 0, 0, train=True)
    rows = next(train_stream(job, data.name, data.train))
    batch = collate(data.train, rows, start.pad_token_id).to(model.device)
    lengths, layout = batch.lengths, form_of(batch.lengths, model.device, job.padding_free)
    ids, labels = batch.rows(batch.input_ids), batch.rows(batch.labels)
    adapter, held = _trainable(start.adapter, cut), held_blocks(job, model.num_blocks, cut)
    model.bind(start.adapter)
    with torch.no_grad():
        padded = layout.batch(ids, fill=start.pad_token_id)
        sent = layout.rows(model.run(0, cut, place, input_ids=padded, **layout.inputs))

    def through(activations: Tensor) -> TrunkStep:
        """Run the blocks above the cut forward and back."""
        message = Activations(1, 0, 0, True, lengths, activations, labels, ids)
        return trunk_step(model, [AtCut(place, held, message, adapter)], padding_free=job.padding_free)

    # Each codec against rows as they are.
    exact = through(sent)
    at_tail = job.labels == "client"  # rows cross there, too, and their gradients
    times = job.gradient_accumulation_steps * (1 + at_tail)
    times_back = job.gradient_accumulation_steps * (job.train_front + at_tail)
    size = sent.numel() * sent.element_size()
    trials = [CodecTrial(NONE, times * size, times_back * size)]
    for name in codec_names():
        if name in (NONE, DELTA):  # delta has a sample's first time only: int4
            continue
        up, down = make_codec(name, "activations"), make_codec(name, "gradients")
        assert up is not None and down is not None
        rounded, gradient = _rounded(up, sent, lengths), _rounded(down, exact.at_cut[0], lengths)
        found = through(rounded)
        trials.append(
            CodecTrial(
                name,
                step_bytes=times * _bytes(up, sent, lengths),
                gradient_bytes=times_back * _bytes(down, sent, lengths),
                lost=_lost(rounded, sent),
                gradient_lost=_lost(gradient, exact.at_cut[0]),
                loss_change=found.losses[0] / exact.losses[0] - 1,
                direction=_cosine(found, exact),
            )
        )
    return trials


def _trainable(adapter: Adapter, cut: int) -> Mapping[int, Mapping[str, nn.Parameter]]:
    """Return copies of the adapters from the cut on, which gather gradients."""
    return {
        block: {name: nn.Parameter(tensor.detach().clone()) for name, tensor in tensors.items()}
        for block, tensors in adapter.items()
        if block >= cut
    }


def _cosine(one: TrunkStep, other: TrunkStep) -> float:
    """Return the cosine between the gradients of all adapters above the cut."""
    each = [[g.flatten().double() for _, g in step.gradients if g is not None] for step in (one, other)]
    return float(torch.nn.functional.cosine_similarity(torch.cat(each[0]), torch.cat(each[1]), dim=0))


def _rounded(codec: Codec, rows: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Return rows as they arrive."""
    return codec.decode(codec.encode(rows, lengths), lengths, rows.shape[1]).to(rows.device)


def _bytes(codec: Codec, rows: Tensor, lengths: tuple[int, ...]) -> int:
    return sum(part.nbytes for part in codec.layout(lengths, rows.shape[1]))


def _lost(came: Tensor, sent: Tensor) -> float:
    """Return the share of the energy that rows have lost."""
    gone = float((came.float() - sent.float()).square().sum())
    return gone / max(float(sent.float().square().sum()), 1e-30)

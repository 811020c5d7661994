"""Energy, loss and bytes of every codec on one batch of a job: `splitft plan --codecs`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from splitft.client.batches import StepBatches
from splitft.lora.ranks import held_blocks
from splitft.model.split_model import StepId
from splitft.running.prepare import Assembly
from splitft.server.step import AtCut, TrunkStep, trunk_step
from splitft.wire.codecs.codec import Codec
from splitft.wire.codecs.registry import CODECS, DELTA, NONE, make_codec
from splitft.wire.messages import Activations


@dataclass(frozen=True)
class CodecTrial:
    """A codec on one batch at the cut."""

    codec: str
    step_bytes: int  # activations of one local step
    gradient_bytes: int  # their gradients
    lost: float = 0.0  # share of the activations' energy that the codec loses
    gradient_lost: float = 0.0  # the same of the gradients
    loss_change: float = 0.0  # relative change of the training loss with the codec's activations
    direction: float = 1.0  # cosine between the adapters' gradients above the cut, with and without it


def try_codecs(start: Assembly) -> list[CodecTrial]:
    """Try every codec on the first batch of the job's first client, through the blocks above its cut.

    start: assembled with weights.
    """
    job, model, data = start.job, start.split_model, start.clients[0]
    held = held_blocks(job, model.num_blocks, start.cuts[data.name])

    # The batch as the client sends it: rows of activations at the cut.
    batch = StepBatches(job, data.name, data, start.pad_token_id, model.device).micro_batch(0, 1)
    place, lengths = StepId(data.name, 1, 0, 0, train=True), batch.lengths
    model.bind(start.adapter)
    with torch.no_grad():
        rows = batch.layout.rows(model.run(0, held.cut, place, **batch.inputs))
    ids = batch.id_rows if model.server_inputs == "input_ids" else None
    sent = Activations(1, 0, 0, True, lengths, rows, labels=batch.label_rows, input_ids=ids)
    trained = {
        block: {name: nn.Parameter(tensor.detach().clone()) for name, tensor in tensors.items()}
        for block, tensors in start.adapter.items()
        if block >= held.cut
    }

    def through(activations: Tensor) -> TrunkStep:
        part = AtCut(place, held, replace(sent, hidden=activations), trained)
        return trunk_step(model, [part], padding_free=job.without_padding)

    # Each codec against rows as they are. With labels at home rows and gradients cross at the tail, too.
    exact, at_tail = through(rows), job.labels == "client"
    times = job.gradient_accumulation_steps * (1 + at_tail)
    times_back = job.gradient_accumulation_steps * (job.train_front + at_tail)
    size = rows.numel() * rows.element_size()
    trials = [CodecTrial(NONE, times * size, times_back * size)]
    for name in CODECS.names():
        if name in (NONE, DELTA):  # delta sends a sample's first time as int4
            continue
        up, down = make_codec(name, "activations"), make_codec(name, "gradients")
        assert up is not None and down is not None
        rounded, gradient = _rounded(up, rows, lengths), _rounded(down, exact.at_cut[0], lengths)
        found = through(rounded)
        trials.append(
            CodecTrial(
                name,
                step_bytes=times * _bytes(up, rows, lengths),
                gradient_bytes=times_back * _bytes(down, rows, lengths),
                lost=_lost(rounded, rows),
                gradient_lost=_lost(gradient, exact.at_cut[0]),
                loss_change=found.losses[0] / exact.losses[0] - 1,
                direction=float(torch.cosine_similarity(_vector(found), _vector(exact), dim=0)),
            )
        )
    return trials


def _rounded(codec: Codec, rows: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Return rows as they arrive."""
    return codec.decode(codec.encode(rows, lengths), lengths, rows.shape[1]).to(rows.device)


def _bytes(codec: Codec, rows: Tensor, lengths: tuple[int, ...]) -> int:
    return sum(part.nbytes for part in codec.layout(lengths, rows.shape[1]))


def _lost(came: Tensor, sent: Tensor) -> float:
    """Return the share of the energy that rows have lost."""
    gone = float((came.float() - sent.float()).square().sum())
    return gone / max(float(sent.float().square().sum()), 1e-30)


def _vector(step: TrunkStep) -> Tensor:
    """Return the gradients of all adapters as one vector."""
    return torch.cat([own.flatten().double() for _, own in step.gradients if own is not None])

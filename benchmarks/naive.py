"""A naive split LoRA loop of our own, for comparison: what is written first, without any care for speed.

Clients take their steps in turn. The server holds a copy of the whole model for every client, with its own
adapter and optimizer. Batches are padded (to max_length, as fixed-length data loaders do, which all figures
use where nothing else is said; or to the batch's longest row); activations and gradients cross the cut as
padded float32 tensors through torch.save and torch.load. At a round's end adapters are averaged (FedAvg). It
computes a correct split step; `python benchmarks/naive.py` compares its losses with SplitFT's.

For models of GPT-2's kind. Clipping and schedules are left out: nothing in it costs what it need not.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import pad

from splitft import Job
from splitft.data import Batch, Rows, collate, train_stream

RATE = 1e-3  # learning rate


def to_bytes(message: Any) -> bytes:
    """What crosses the cut."""
    buffer = io.BytesIO()
    torch.save(message, buffer)
    return buffer.getvalue()


def from_bytes(payload: bytes) -> Any:
    return torch.load(io.BytesIO(payload))


def with_lora(model: nn.Module, rank: int, alpha: int, targets: Sequence[str]) -> Any:
    """Return a copy of a model with adapters, to train."""
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), fan_in_fan_out=True)
    return get_peft_model(copy.deepcopy(model), lora).train()


def padded(batch: Batch, width: int) -> Batch:
    """Return the batch padded on the right to so many tokens."""
    more = (0, max(0, width - batch.input_ids.shape[1]))
    return Batch(
        pad(batch.input_ids, more), pad(batch.attention_mask, more), pad(batch.labels, more, value=-100)
    )


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)


def adapters(model: nn.Module) -> dict[str, Tensor]:
    """Return the trained tensors by name, as they stand."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def averaged(given: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """FedAvg."""
    return {
        name: sum((g[name] * (w / sum(weights)) for g, w in zip(given, weights, strict=True)), 0 * first)
        for name, first in given[0].items()
    }


class NaiveServer:
    """A copy of the whole model for every client; blocks from the cut on are run."""

    def __init__(self, model: nn.Module, names: Sequence[str], cut: int, lora: tuple[Any, ...]) -> None:
        self.models = {name: with_lora(model, *lora).base_model.model for name in names}
        self.optimizers = {}
        self.fronts = []  # held, and never run
        for name, own in self.models.items():
            self.fronts.append(own.transformer.h[:cut])
            own.transformer.h = own.transformer.h[cut:]
            own.transformer.wpe.weight.data.zero_()  # positions are in what the client sends
            self.optimizers[name] = make_optimizer(own)

    def answer(self, name: str, payload: bytes) -> bytes:
        """Run a client's trunk forward and back, take its step, and return the activations' gradient."""
        came = from_bytes(payload)
        model = self.models[name]
        hidden = came["hidden"].to(model.dtype).requires_grad_()
        loss = model(
            inputs_embeds=hidden,
            attention_mask=came["attention_mask"],
            labels=came["labels"],
            use_cache=False,
        ).loss
        loss.backward()
        self.optimizers[name].step()
        self.optimizers[name].zero_grad()
        assert hidden.grad is not None
        return to_bytes({"gradient": hidden.grad.float(), "loss": loss.item()})


class NaiveClient:
    """The embeddings and first blocks, and the rows of one client. pad_to: tokens; 0: the batch's longest."""

    def __init__(
        self, name: str, model: nn.Module, cut: int, lora: tuple[Any, ...], job: Job, rows: Rows, pad_to: int
    ) -> None:
        self.name, self.rows, self.pad_to = name, rows, pad_to
        self.core = with_lora(model, *lora).base_model.model.transformer
        self.core.h, self.core.ln_f = self.core.h[:cut], nn.Identity()
        self.optimizer = make_optimizer(self.core)
        self.stream = train_stream(job, name, rows)
        self._hidden: Tensor | None = None

    def forward(self) -> bytes:
        """Run the front on the next batch and return what goes up."""
        batch = padded(collate(self.rows, next(self.stream), 0), self.pad_to)
        self._hidden = self.core(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        return to_bytes({
            "hidden": self._hidden.detach().float(),
            "attention_mask": batch.attention_mask,
            "labels": batch.labels,
        })  # fmt: skip

    def backward(self, payload: bytes) -> float:
        """Take the gradient back through the front, and the step; return the loss."""
        came = from_bytes(payload)
        assert self._hidden is not None
        self._hidden.backward(came["gradient"].to(self._hidden.dtype))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(came["loss"])


class Naive:
    """All of it in one process."""

    def __init__(
        self, job: Job, model: nn.Module, rows: Mapping[str, Rows], lora: tuple[Any, ...], pad_to: int = 0
    ) -> None:
        assert isinstance(job.cuts, int)
        self.server = NaiveServer(model, list(rows), job.cuts, lora)
        self.clients = [
            NaiveClient(name, model, job.cuts, lora, job, own, pad_to) for name, own in rows.items()
        ]
        self.bytes_up = self.bytes_down = 0

    def step(self) -> list[float]:
        """Take one local step of every client, in turn; return their losses."""
        losses = []
        for client in self.clients:
            up = client.forward()
            down = self.server.answer(client.name, up)
            losses.append(client.backward(down))
            self.bytes_up += len(up)
            self.bytes_down += len(down)
        return losses

    def average(self) -> None:
        """End the round: everybody goes on with the mean adapter, of the fronts and of the trunks."""
        for models in ([c.core for c in self.clients], list(self.server.models.values())):
            mean = averaged([adapters(model) for model in models], [1.0] * len(models))
            for model in models:
                model.load_state_dict(mean, strict=False)


def main() -> None:
    """Compare the losses of a few steps with SplitFT's, on the same rows, adapters and optimizer."""
    from benchlib.parties import ALPHA, RANK, TARGETS, Federation, gpt2, make_job, random_model, split_model
    from benchlib.rows import rows_of

    config = gpt2(n_layer=4, n_embd=64, n_head=4, vocab_size=512)
    job = make_job(2, 3, codec="none", max_grad_norm=0.0)
    rows = {f"client-{i}": rows_of([9, 31, 24, 5, 17, 12], seed=i, vocabulary=512) for i in range(2)}
    ours = Federation(job, split_model(config, torch.float32), rows)
    theirs = Naive(job, random_model(config, torch.float32), rows, (RANK, ALPHA, TARGETS), pad_to=40)
    same_adapters(ours, theirs)
    for step in range(5):
        mine, naive = ours.step(), theirs.step()
        furthest = max(abs(a - b) for a, b in zip(mine, naive, strict=True))
        print(f"step {step}: ours {mine[0]:.6f}  naive {naive[0]:.6f}  largest difference {furthest:.1e}")
        if furthest > 1e-4:
            raise SystemExit("the naive loop does not compute the same step")


def same_adapters(ours: Any, theirs: Naive) -> None:
    """Let the naive loop start from the adapter that SplitFT starts from."""
    parts = [(client.core.h, 0) for client in theirs.clients]
    parts += [(own.transformer.h, len(parts[0][0])) for own in theirs.server.models.values()]
    for blocks, first in parts:
        for number, block in enumerate(blocks, first):
            for name, tensor in block.named_parameters():
                if tensor.requires_grad:
                    tensor.data.copy_(ours.server.adapter[number][name.replace(".default", "")])


if __name__ == "__main__":
    main()

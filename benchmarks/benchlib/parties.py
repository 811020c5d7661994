"""A server and its clients in this process, on a model with random weights, as the local engine has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedConfig

from splitft import Job
from splitft.client.client import Client
from splitft.data import ClientData, Rows, collate, train_stream
from splitft.engines.local import LocalCohort
from splitft.lora.blocks import initial_adapter, to_device
from splitft.model.attention import use_fast_backward
from splitft.model.slots import inject, lora_config, uses_fan_in_fan_out
from splitft.model.split_model import SplitModel
from splitft.proof.head import try_head
from splitft.round import Observer, StepLosses, exchange
from splitft.running.batching import batch_tokens
from splitft.server.server import Server
from splitft.wire.channel import sample_memory
from splitft.wire.ledger import Ledger
from splitft.wire.messages import Message

RANK, ALPHA, TARGETS = 16, 32, ["c_attn", "c_proj"]


def gpt2(**changes: Any) -> GPT2Config:
    """GPT2-small's shape without dropout, so that both sides of a benchmark compute the same."""
    calm = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2Config(**{**calm, **changes})


def random_model(config: PreTrainedConfig, dtype: torch.dtype, device: str = "cpu") -> Any:
    """A model with random weights, the same for every dtype but for its rounding."""
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype)


def make_job(clients: int, batch: int, **changes: Any) -> Job:
    """A job whose local steps never end, with int8 on the wire as over a network."""
    given = {
        "model_name_or_path": "random", "dataset_name": "random", "clients": clients, "cuts": 2,
        "local_steps": 10**6, "lora_r": RANK, "lora_alpha": ALPHA, "lr_scheduler_type": "constant",
        "learning_rate": 1e-3, "per_device_train_batch_size": batch, "codec": "int8",
    }  # fmt: skip
    return Job(**{**given, **changes})


def split_model(
    config: PreTrainedConfig,
    dtype: torch.dtype,
    targets: Sequence[str] = TARGETS,
    device: str = "cpu",
    loss_chunk_tokens: int = Job.model_fields["loss_chunk_tokens"].default,
) -> SplitModel:
    """The one frozen base that all parties share, with adapter slots; the loss in chunks, as in a run."""
    model = random_model(config, dtype, device)
    use_fast_backward(model)
    head, _ = try_head(model)
    fan_in = uses_fan_in_fan_out(model)
    lora = lora_config(list(targets), [], r=RANK, alpha=ALPHA, dropout=0.0, fan_in_fan_out=fan_in)
    return SplitModel(model, inject(model, lora), head=head, loss_chunk_tokens=loss_chunk_tokens)


class Unsplit:
    """The stock peft step on the whole model: what splitting is compared with."""

    def __init__(
        self,
        job: Job,
        config: PreTrainedConfig,
        dtype: torch.dtype,
        rows: Rows,
        targets: Sequence[str] = TARGETS,
        device: str = "cpu",
    ) -> None:
        model = random_model(config, dtype, device)
        lora = LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            target_modules=list(targets),
            fan_in_fan_out=uses_fan_in_fan_out(model),
        )
        self.model, self.device, self.rows = get_peft_model(model, lora).train(), device, rows
        self.stream = train_stream(job, "client-0", rows)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=job.learning_rate, weight_decay=0.0, fused=True)

    def step(self) -> list[float]:
        """Take a step on the next batch; return its loss."""
        batch = collate(self.rows, next(self.stream), 0).to(self.device)
        loss = self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            use_cache=False,
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return [loss.item()]


class Losses(Observer):
    """Keeps the losses of steps as they are told."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None:
        self.found.setdefault(client, []).append(loss)


class Federation:
    """All clients of a job and their server. rows: of each client; cuts: of each, else the job's."""

    def __init__(
        self, job: Job, model: SplitModel, rows: Mapping[str, Rows], cuts: Mapping[str, int] | None = None
    ) -> None:
        self.job, self.names, self.losses, self.ledger = job, list(rows), Losses(), Ledger()
        if cuts is None:
            cuts = dict.fromkeys(self.names, job.cuts if isinstance(job.cuts, int) else job.cuts[0])
        adapter = to_device(initial_adapter(model.slots.layout, RANK, job.seed), model.device)
        tokens = batch_tokens(job, model, list(cuts.values()), Console())
        self._means = StepLosses(job.gradient_accumulation_steps)
        self.server = Server(model, job, adapter, batch_tokens=tokens)
        clients = [
            Client(name, ClientData(name, own, own), model, job, 0, sample_memory(job, model.width))
            for name, own in rows.items()
        ]
        self.cohort = LocalCohort(clients, job, self.ledger)
        self.cohort.receive(self.server.hand_out(1, cuts))
        together = job.server_adapter == "shared"
        self._waves: Iterator[dict[str, Message]] = self.cohort.train(self.names, 1, together=together)

    def step(self) -> list[float]:
        """Take one local step of every client; return their losses."""
        done = min(len(self.losses.found.get(name, ())) for name in self.names)
        while any(len(self.losses.found.get(name, ())) <= done for name in self.names):
            exchange(self.server, self.cohort, next(self._waves), self.losses, self._means)
        return [self.losses.found[name][done] for name in self.names]

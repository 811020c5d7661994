"""Training without any split, written with stock transformers, peft and torch only; what runs must equal.

Of SplitFT it uses the data (the same batches must be seen) and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Lfm2Config,
    Lfm2ForCausalLM,
    get_scheduler,
)

from splitft import Job
from splitft.data import ClientData, collate, prepare
from splitft.data.batches import BatchStream
from tiny import EOS, PAD_ID, VOCAB_SIZE, save_tiny_model, save_to

TARGETS = {
    "gpt2": ["c_attn", "c_proj"],
    "opt": ["q_proj", "v_proj", "fc1"],
    "gpt_neo": ["q_proj", "v_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"],
    "qwen3": ["q_proj", "v_proj", "gate_proj"],
    "gemma3_text": ["q_proj", "v_proj", "up_proj"],
}
Tensors = dict[str, torch.Tensor]
WORDS = ("we", "the", "people", "of", "states", "in", "order", "to", "form", "a", "more", "perfect", "union")


def write_rows(path: Path, rows: int = 60, seed: int = 1) -> Path:
    """Write paragraphs of very different lengths."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, size=int(rng.integers(2, 24)))) for _ in range(rows)]
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


def make_setting(folder: Path, model_type: str, **config: Any) -> dict[str, Any]:
    """Write a tiny model, data and a random adapter (B is not zero); return the job's settings."""
    model_path = save_tiny_model(folder / "model", model_type, **config)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    lora = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=TARGETS[model_type],
        fan_in_fan_out=model_type == "gpt2",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(model, lora).save_pretrained(str(folder / "adapter"))
    return {
        "model_name_or_path": str(model_path),
        "adapter_name_or_path": str(folder / "adapter"),
        "data_files": str(write_rows(folder / "rows.txt")),
        "max_length": 24,
        "codec": "none",
        "privacy": "server_reads",  # a job over a network states its mode
        "padding_free": False,  # stock peft pads
        "max_eval_samples": 4,
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_target_modules": TARGETS[model_type],
        "learning_rate": 5e-3,
        "weight_decay": 0.01,
        "max_grad_norm": 0.5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 3,
        "per_device_train_batch_size": 3,
        "eval_every": 100,
        "use_cpu": True,
    }


def make_hybrid_setting(folder: Path, **settings: Any) -> dict[str, Any]:
    """Write a tiny model of which only every other block has the layer that is adapted; return settings."""
    config = Lfm2Config(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        layer_types=["conv", "full_attention"] * 2, bos_token_id=0, eos_token_id=0, pad_token_id=PAD_ID,
    )  # fmt: skip
    torch.manual_seed(0)
    Lfm2ForCausalLM(config).save_pretrained(str(folder / "model"))
    return {
        "model_name_or_path": str(save_to(folder / "model")), "lora_target_modules": ["q_proj"],
        "data_files": str(write_rows(folder / "rows.txt")), "max_length": 24, "clients": 2,
        "local_steps": 2, "lora_r": 4, "use_cpu": True,
    } | settings  # fmt: skip


def stock_model(folder: str | Path) -> Any:
    """Load a model in float32 by the auto class that a person would take."""
    causal = type(AutoConfig.from_pretrained(folder)) in MODEL_FOR_CAUSAL_LM_MAPPING
    auto: Any = AutoModelForCausalLM if causal else AutoModelForImageTextToText
    return auto.from_pretrained(folder, dtype=torch.float32)


class UnsplitClient:
    """Stock peft training of one client's data on a whole model of its own."""

    def __init__(self, job: Job, data: ClientData) -> None:
        self.job = job
        self.data = data
        self.model = self.with_adapter(self.base())
        self.model.train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = self.make_optimizer()
        total = job.rounds * job.local_steps
        self.schedule = get_scheduler(job.lr_scheduler_type, self.optimizer, job.warmup_steps, total)
        self.stream = BatchStream(len(data.train), job.per_device_train_batch_size, job.seed, data.name)
        self.tokens = 0
        self.losses: list[tuple[float, int]] = []
        self.start = [p.detach().clone() for p in self.parameters]  # of the round

    def base(self) -> Any:
        return stock_model(self.job.model_name_or_path)

    def with_adapter(self, base: Any) -> Any:
        return PeftModel.from_pretrained(base, self.job.adapter_name_or_path, is_trainable=True)

    def make_optimizer(self) -> torch.optim.Optimizer:
        job = self.job
        if job.optim == "sgd":
            return torch.optim.SGD(self.parameters, job.learning_rate, weight_decay=job.weight_decay)
        if job.optim == "rmsprop":
            return torch.optim.RMSprop(self.parameters, job.learning_rate, weight_decay=job.weight_decay)
        return torch.optim.AdamW(
            self.parameters, lr=job.learning_rate, weight_decay=job.weight_decay, fused=True
        )

    def local_step(self) -> None:
        batches = [self._batch() for _ in range(self.job.gradient_accumulation_steps)]
        counts = [int((b.labels[:, 1:] != -100).sum()) for b in batches]
        loss_of_step = 0.0
        for batch in batches:
            self.tokens += int(batch.attention_mask.sum())
            extra = {"num_items_in_batch": torch.tensor(sum(counts))} if len(batches) > 1 else {}
            loss = self.loss(batch, **extra)
            loss.backward()
            loss_of_step += loss.item()
        if self.job.objective == "fedprox":
            assert self.job.proximal_mu is not None
            distance = sum((p - s).pow(2).sum() for p, s in zip(self.parameters, self.start, strict=True))
            (self.job.proximal_mu / 2 * distance).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(self.parameters, self.job.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.losses.append((loss_of_step, sum(counts)))

    def loss(self, batch: Any, **extra: Any) -> torch.Tensor:
        loss: torch.Tensor = self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            use_cache=False,
            **extra,
        ).loss
        return loss

    def _batch(self) -> Any:
        return collate(self.data.train, next(self.stream), PAD_ID)

    def adapter(self) -> dict[str, torch.Tensor]:
        """Return the adapter under the names that PEFT files have."""
        return {
            in_file(name): p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad
        }

    def load(self, adapter: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(adapter[in_file(name)])
        self.start = [p.detach().clone() for p in self.parameters]


def federated_lora(
    job: Job,
    client_class: type[UnsplitClient] = UnsplitClient,
    follow: Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], dict[str, torch.Tensor]]
    | None = None,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Federated LoRA on whole models; return the final adapter and each round's mean loss per client.

    follow: the new global adapter from the old one and the average; None: the average (FedAvg).
    """
    tokenizer = AutoTokenizer.from_pretrained(job.model_name_or_path)
    assert tokenizer.eos_token == EOS
    clients = [client_class(job, data) for data in prepare(job, tokenizer).clients]
    history, old = [], clients[0].adapter()
    for _ in range(job.rounds):
        for client in clients:
            client.tokens, client.losses = 0, []
            for _ in range(job.local_steps):
                client.local_step()
        mean = weighted_mean([c.adapter() for c in clients], [c.tokens for c in clients])
        old = mean = follow(old, mean) if follow else mean
        for client in clients:
            client.load(mean)
        history.append({c.data.name: mean_loss(c.losses) for c in clients})
    return mean, history


def in_file(name: str) -> str:
    """Return the name that a PEFT file has for a parameter."""
    return name.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def mean_loss(losses: Sequence[tuple[float, int]]) -> float:
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def weighted_mean(
    adapters: Sequence[dict[str, torch.Tensor]], tokens: Sequence[int]
) -> dict[str, torch.Tensor]:
    total = sum(tokens)
    return {
        name: sum(a[name].double() * (n / total) for a, n in zip(adapters, tokens, strict=True)).float()
        for name in adapters[0]
    }

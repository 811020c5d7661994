"""Settings of what a run starts from: the base model and the data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from splitft.job.sections import Count, Name, PartitionConfig, PathName, Strict, advanced, key
from splitft.job.settings.training import SeedSettings


class ModelSettings(Strict):
    """The base model, and how a process holds it."""

    model_name_or_path: PathName = Field(
        description="A model folder, a hub id, or builtin:smollm2-135m (the demo model)."
    )
    model_revision: Name = key("main", "Branch, tag or commit on the hub.")
    model_fallback: PathName | None = key(
        None,
        "A built-in model or a folder to use instead where the hub does not answer, e.g. "
        "builtin:gpt2-random (GPT-2's shape, random weights).",
    )
    adapter_name_or_path: PathName | None = key(None, "A PEFT LoRA adapter folder to continue from.")
    bf16: bool = key(False, "Hold the frozen base in bfloat16; adapters stay in float32.")
    gradient_checkpointing: bool = key(False, "Recompute blocks in the backward pass.")
    loss_chunk_tokens: Annotated[int, Field(ge=0)] = advanced(
        128,
        "Tokens that head and cross-entropy take at a time, none without a label: the "
        "full logits are never held. The same loss, which a matrix library may add up in another order. 0: "
        "the model's own loss, over the full logits.",
    )
    attn_implementation: Name | None = advanced(
        None, "As of from_pretrained. Unset: its choice, in bfloat16 on a CPU with a faster backward."
    )
    use_cpu: bool = key(False, "Stay on the CPU even where an accelerator is present.")


class DataSettings(SeedSettings):
    """The texts, their tokens, and the partition of the rows."""

    dataset_name: PathName | None = key(None, "A `datasets` hub name, or builtin:sotu.")
    dataset_config_name: Name | None = key(None, "Configuration of the hub data set.")
    dataset_split: Name = key("train", "Split of the hub data set that is dealt to clients.")
    dataset_fallback: PathName | None = key(
        None, "A built-in data set to use instead where the hub does not answer: builtin:sotu."
    )
    data_files: (
        PathName
        | Annotated[list[PathName], Field(min_length=1)]
        | Annotated[dict[Name, PathName], Field(min_length=1)]
        | None
    ) = key(
        None,
        "Text, jsonl, csv or parquet: a file, a list, or {client name: file}, which implies "
        "partition.method files.",
    )
    dataset_text_field: Name = key("text", "Text column of plain language-modelling rows.")
    sample_by: Literal["line", "paragraph", "document"] = key("paragraph", "What one row of a .txt file is.")
    document_column: Name | None = key(
        None, "Rows that share a value are one document: held out together. Default: the row."
    )
    max_length: Annotated[int, Field(ge=2)] = key(512, "Tokens; longer rows are truncated.")
    packing: bool = key(False, "Join a client's rows and cut blocks of max_length tokens.")
    completion_only_loss: bool | None = key(
        None, "Loss on the completion only. Default: yes for prompt/completion rows (as TRL)."
    )
    max_train_samples: Count | None = key(None, "Use at most this many training rows.")
    max_eval_samples: Count | None = key(None, "Use at most this many held-out rows.")
    eval_fraction: float = key(0.1, "Share of documents held out for evaluation.", gt=0, lt=1)
    partition: PartitionConfig = Field(default_factory=PartitionConfig, description="Who gets which rows.")
    clients: Count = key(5, "Number of clients; with partition files or by_column: at most.")

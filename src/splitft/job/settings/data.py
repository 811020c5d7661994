"""Settings of the data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from splitft.job.sections import Count, Name, PartitionConfig, PathName
from splitft.job.settings.training import SeedSettings


class DataSettings(SeedSettings):
    """The texts, their tokens, and the partition of the rows."""

    dataset_name: PathName | None = Field(default=None, description="A `datasets` hub name, or builtin:sotu.")
    dataset_config_name: Name | None = Field(default=None, description="Configuration of the hub data set.")
    dataset_split: Name = Field(
        default="train", description="Split of the hub data set that is dealt to clients."
    )
    dataset_fallback: PathName | None = Field(
        default=None,
        description="A built-in data set to use instead where the hub does not answer: builtin:sotu.",
    )
    data_files: (
        PathName
        | Annotated[list[PathName], Field(min_length=1)]
        | Annotated[dict[Name, PathName], Field(min_length=1)]
        | None
    ) = Field(
        default=None,
        description="Text, jsonl, csv or parquet: a file, a list, or {client name: file}, which implies "
        "partition.method files.",
    )
    dataset_text_field: Name = Field(
        default="text", description="Text column of plain language-modelling rows."
    )
    sample_by: Literal["line", "paragraph", "document"] = Field(
        default="paragraph", description="What one row of a .txt file is."
    )
    document_column: Name | None = Field(
        default=None,
        description="Rows that share a value are one document: held out together. Default: the row.",
    )
    max_length: Annotated[int, Field(ge=2)] = Field(
        default=512, description="Tokens; longer rows are truncated."
    )
    packing: bool = Field(
        default=False, description="Join a client's rows and cut blocks of max_length tokens."
    )
    completion_only_loss: bool | None = Field(
        default=None,
        description="Loss on the completion only. Default: yes for prompt/completion rows (as TRL).",
    )
    max_train_samples: Count | None = Field(default=None, description="Use at most this many training rows.")
    max_eval_samples: Count | None = Field(default=None, description="Use at most this many held-out rows.")
    eval_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Share of documents held out for evaluation."
    )
    partition: PartitionConfig = Field(default_factory=PartitionConfig, description="Who gets which rows.")
    clients: Count = Field(
        default=5, description="Number of clients; with partition files or by_column: at most."
    )

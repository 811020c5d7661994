"""Keys of a job about its data, and the seed: texts, tokens, partition, evaluation set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from splitft.job.redaction import RedactConfig
from splitft.job.sections import Count, Name, PartitionConfig, PathName, Strict, advanced, key

Files = (
    PathName
    | Annotated[list[PathName], Field(min_length=1)]
    | Annotated[dict[Name, PathName], Field(min_length=1)]
    | None
)

# Stand in a job for data sets as objects.
GIVEN_TRAIN, GIVEN_EVAL = "object:train_dataset", "object:eval_dataset"


class SeedSettings(Strict):
    """The seed of all named generators."""

    seed: int = key(
        42, "Seeds the partition, the order of rows, dropout and new adapters.", ge=0, le=2**32 - 1
    )


class DataSettings(SeedSettings):
    """The texts, their tokens, and the partition of the rows."""

    dataset_name: PathName | None = key(None, "A `datasets` hub name, or builtin:sotu.")
    dataset_config_name: Name | None = key(None, "Configuration of the hub data set.")
    dataset_revision: Name = key(
        "main",
        "Branch, tag or commit of the hub data set; a commit names the same rows for all clients, always.",
    )
    dataset_split: Name = key("train", "Split of the hub data set that is dealt to clients.")
    dataset_fallback: PathName | None = key(
        None, "A built-in data set to use instead where the hub does not answer: builtin:sotu."
    )
    dataset_test_split: Name | None = key(
        None, "Split of the hub data set to evaluate on, e.g. test; no training rows are then held out."
    )
    data_files: Files = key(
        None,
        "Text, jsonl, csv or parquet: a file, a list, or {client name: file}, which implies "
        "partition.method files.",
    )
    eval_files: Files = key(
        None,
        "Files to evaluate on; no training rows are then held out. A file or a list: rows for all clients, "
        "each evaluated once, dealt like the training rows. {client name: file}: each client's own.",
    )
    dataset_text_field: Name = key("text", "Text column of plain language-modelling rows.")
    sample_by: Literal["line", "paragraph", "document"] = key("paragraph", "What one row of a .txt file is.")
    document_column: Name | None = key(
        None, "Rows that share a value are one document: held out together. Default: the row."
    )
    max_length: Annotated[int, Field(ge=2)] = key(512, "Tokens of a row at most.")
    truncation_mode: Literal["keep_start", "chunk"] = key(
        "keep_start",
        "Rows of more than max_length tokens. keep_start: the rest is left out. chunk: they become several "
        "rows of up to max_length tokens, all with one client, and all trained on or all held out.",
    )
    packing: bool = key(False, "Join a client's rows and cut blocks of max_length tokens.")
    completion_only_loss: bool | None = key(
        None, "Loss on the completion only. Default: yes for prompt/completion rows (as TRL)."
    )
    max_train_samples: Count | None = key(None, "Use at most this many training rows.")
    max_eval_samples: Count | None = key(None, "Use at most this many evaluation rows.")
    eval_fraction: float = key(0.1, "Share of documents held out for evaluation.", gt=0, lt=1)
    redact: RedactConfig = Field(
        default_factory=RedactConfig,
        description="The parts of rows that are redacted. In one process: of all clients. Over a network "
        "each site says it in its own policy (site.yaml), and the job must not.",
    )
    partition: PartitionConfig = Field(default_factory=PartitionConfig, description="Who gets which rows.")
    clients: Count = key(
        5, "Number of clients; with partition files: of the files, if stated; with by_column: at most."
    )
    canaries: Annotated[int, Field(ge=0)] = advanced(
        0,
        "Sentences of random words that each client trains on in 1, 4 and 16 copies, and as many controls in "
        "none; 8 tell what an adapter remembers (docs/differential-privacy.md). None is evaluated on.",
    )

    @property
    def eval_set(self) -> str:
        """Name of the evaluation set that the job names; empty where training rows are held out."""
        if self.eval_files is not None:
            return "eval_files"
        return f"split {self.dataset_test_split}" if self.dataset_test_split else ""

"""The job: one frozen description of a run. Every key is documented here, once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler  # at the top only from 2.10 on
from pydantic_core import InitErrorDetails, PydanticCustomError

from splitft.job.rules import broken_rules

SchedulerType = Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
PathName = Annotated[  # a pathlib.Path is welcome from Python; the job holds text, as its file does
    Name, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)
]
Names = Annotated[list[Name], Field(min_length=1)]

# Headings of the job file and of the reference, each with the first key under it.
GROUPS = {
    "Model": "model_name_or_path",
    "Data": "dataset_name",
    "Federation": "clients",
    "LoRA": "lora_r",
    "Optimizer": "learning_rate",
    "The run": "seed",
}
RULE = "cross_field_rule"  # the pydantic error type of a broken rule of splitft.job.rules


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class PartitionConfig(_Strict):
    """Who gets which training rows."""

    method: Literal["iid", "length_dirichlet", "dirichlet", "by_column", "files"] = Field(
        default="iid",
        description="iid: shuffled, equal shares. length_dirichlet: length classes dealt by Dirichlet(alpha) "
        "(the paper's). dirichlet: the same over the values of `column`. by_column: one client per value of "
        "`column`. files: one client per data file.",
    )
    alpha: float = Field(
        default=0.5, gt=0, description="Dirichlet concentration; small is skewed, large tends to iid."
    )
    num_buckets: Count = Field(
        default=5, description="Length classes (quantiles of token length) of length_dirichlet."
    )
    column: Name | None = Field(default=None, description="Column that dirichlet and by_column read.")
    min_rows: Count = Field(default=1, description="Fewest training rows a client may get.")
    samples_per_client: Count | None = Field(
        default=None,
        description="Draw exactly this many rows for each client, with replacement where data are fewer.",
    )


class Job(_Strict):
    """One run, complete. Keys known from the Hugging Face stack keep their names and meaning.

    Values are taken strictly: "5" is no integer, true is no number, an integer may stand for a float. Raises
    pydantic.ValidationError with every problem at once, rules across keys (splitft.job.rules) among them;
    `splitft.job.load_job` turns it into a JobError that names keys as the job file does.
    """

    # Model
    model_name_or_path: PathName = Field(
        description="A model folder, a hub id, or builtin:smollm2-135m (the demo model)."
    )
    model_revision: Name = Field(default="main", description="Branch, tag or commit on the hub.")
    adapter_name_or_path: PathName | None = Field(
        default=None, description="A PEFT LoRA adapter folder to continue from."
    )
    bf16: bool = Field(
        default=False, description="Hold the frozen base in bfloat16; adapters stay in float32."
    )
    gradient_checkpointing: bool = Field(default=False, description="Recompute blocks in the backward pass.")
    attn_implementation: Name | None = Field(
        default=None, description="Passed to from_pretrained, e.g. sdpa or eager."
    )

    # Data
    dataset_name: PathName | None = Field(default=None, description="A `datasets` hub name, or builtin:sotu.")
    dataset_config_name: Name | None = Field(default=None, description="Configuration of the hub data set.")
    dataset_split: Name = Field(
        default="train", description="Split of the hub data set that is dealt to clients."
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

    # Federation
    clients: Count = Field(
        default=5, description="Number of clients; with partition files or by_column: at most."
    )
    clients_per_round: Count | None = Field(
        default=None, description="Clients sampled each round; default: all."
    )
    rounds: Count = Field(default=10, description="Rounds of local steps, aggregation and evaluation.")
    local_steps: Count = Field(default=10, description="Optimizer steps of each client in a round.")
    cuts: Count | Annotated[list[Count], Field(min_length=1)] = Field(
        default=2, description="Blocks on each client: one number, or one per client."
    )
    labels: Literal["server", "client"] = Field(
        default="server",
        description="server: clients send their labels (the text) to the server. client: labels, head and "
        "the last tail_blocks blocks stay on the client.",
    )
    tail_blocks: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Last blocks on the client; at least 1 with labels: client, else 0."
    )
    server_adapter: Literal["per_client", "shared"] = Field(
        default="per_client",
        description="per_client: the server trains one trunk adapter per client and averages them each "
        "round. shared: one trunk adapter, trained on all clients' batches.",
    )

    # LoRA
    lora_r: Count = Field(default=16, description="Rank of the adapter of every block.")
    lora_r_cut: Count | None = Field(
        default=None,
        description="Rank of the two blocks at a client's cut (paper: 8 of 16). Default: lora_r.",
    )
    lora_alpha: float = Field(
        default=32.0, gt=0, description="Adapter scaling is lora_alpha / lora_r in every block."
    )
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    lora_target_modules: Name | Names | None = Field(
        default=None, description="Module names, or all-linear. Default: peft's choice for the model type."
    )

    # Optimizer
    learning_rate: float = Field(default=2e-4, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay of AdamW.")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first beta.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's second beta.")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="AdamW's epsilon.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Clip the norm over front, trunk and tail; 0: never."
    )
    lr_scheduler_type: SchedulerType = Field(default="linear", description="Schedule over all rounds' steps.")
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1, description="Share of all steps used to warm up.")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Steps of warm-up; overrides the ratio."
    )
    per_device_train_batch_size: Count = Field(default=8, description="Rows of one client's micro-batch.")
    per_device_eval_batch_size: Count = Field(default=8, description="Rows of one evaluation batch.")
    gradient_accumulation_steps: Count = Field(default=1, description="Micro-batches of one optimizer step.")

    # The run
    seed: int = Field(
        default=42,
        ge=0,
        le=2**32 - 1,
        description="Seeds the partition, the order of rows, dropout and new adapters.",
    )
    output_dir: PathName = Field(
        default="runs/splitft", description="Folder of this run; must not hold another one."
    )
    eval_every: Count = Field(
        default=1, description="Evaluate after every so many rounds (and before and at the end)."
    )
    use_cpu: bool = Field(default=False, description="Stay on the CPU even where an accelerator is present.")

    @model_validator(mode="wrap")
    @classmethod
    def _every_problem_at_once(cls, data: Any, handler: ModelWrapValidatorHandler[Job]) -> Job:
        """Check the rules across keys even where other keys are wrong, and report all together."""
        if not isinstance(data, Mapping):
            return handler(data)
        data = _imply_partition(data)
        details: list[InitErrorDetails] = []
        wrong: set[str] = set()
        job = None
        try:
            job = handler(data)
        except ValidationError as error:
            for line in error.errors(include_url=False):
                loc = line["loc"]
                details.append(
                    InitErrorDetails(type=line["type"], loc=loc, input=line["input"], ctx=line.get("ctx", {}))
                )
                wrong.add(".".join(map(str, loc[:2] if loc[0] == "partition" else loc[:1])))
        values = {key: value for key, value in _values(data, wrong) if key not in wrong}
        for key, problem in broken_rules(values):
            # The text goes in as context: as a template, braces in it would be read as fields.
            rule = PydanticCustomError(RULE, "{problem}", {"problem": problem})
            details.append(InitErrorDetails(type=rule, loc=tuple(key.split(".")), input=values[key]))
        if details or job is None:
            raise ValidationError.from_exception_data(cls.__name__, details)
        return job


def grouped_keys() -> dict[str, list[str]]:
    """The job's keys under their headings, both in the order of the class."""
    first = {key: heading for heading, key in GROUPS.items()}
    groups: dict[str, list[str]] = {}
    heading = ""
    for key in Job.model_fields:
        heading = first.get(key, heading)
        groups.setdefault(heading, []).append(key)
    return groups


def _imply_partition(data: Mapping[str, Any]) -> dict[str, Any]:
    """{client: file} means partition.method files, unless a method is stated."""
    implied = dict(data)
    partition = implied.get("partition", {})
    if isinstance(partition, PartitionConfig):
        partition = {key: getattr(partition, key) for key in partition.model_fields_set}
    if isinstance(implied.get("data_files"), Mapping) and isinstance(partition, Mapping):
        implied["partition"] = {"method": "files", **partition}
    return implied


def _values(data: Mapping[str, Any], wrong: set[str]) -> Iterator[tuple[str, Any]]:
    """Dotted keys with the value given or else the default. Validation is strict, so it changes none."""
    for key, field in Job.model_fields.items():
        if key != "partition":
            yield key, data.get(key, field.default)
    partition = data.get("partition", {})
    if "partition" not in wrong:
        for key, field in PartitionConfig.model_fields.items():
            if isinstance(partition, PartitionConfig):
                yield f"partition.{key}", getattr(partition, key)
            else:
                yield f"partition.{key}", partition.get(key, field.default)

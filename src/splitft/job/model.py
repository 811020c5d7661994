"""The job: one frozen description of a run. Every key is documented here, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler  # at the top only from 2.10 on
from pydantic_core import InitErrorDetails, PydanticCustomError

from splitft.job.nested import given_values, key_path
from splitft.job.rules import broken_rules
from splitft.job.sections import (
    CodecBudgetConfig,
    Count,
    CutPolicyConfig,
    DeviceProfile,
    Name,
    Names,
    NetworkConfig,
    PartitionConfig,
    PathName,
    Strict,
)

SchedulerType = Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"]

# Headings of the job file and of the reference, each with the first key under it.
GROUPS = {
    "Model": "model_name_or_path",
    "Data": "dataset_name",
    "Federation": "method",
    "LoRA": "lora_r",
    "Optimizer": "learning_rate",
    "Wire": "train_front",
    "Devices and network": "devices",
    "The run": "seed",
}
RULE = "cross_field_rule"  # the pydantic error type of a broken rule of splitft.job.rules


class Job(Strict):
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
    model_fallback: PathName | None = Field(
        default=None,
        description="A built-in model or a folder to use instead where the hub does not answer, e.g. "
        "builtin:gpt2-random (GPT-2's shape, random weights).",
    )
    adapter_name_or_path: PathName | None = Field(
        default=None, description="A PEFT LoRA adapter folder to continue from."
    )
    bf16: bool = Field(
        default=False, description="Hold the frozen base in bfloat16; adapters stay in float32."
    )
    gradient_checkpointing: bool = Field(default=False, description="Recompute blocks in the backward pass.")
    torch_compile: bool = Field(
        default=False,
        description="Compile each block, with dynamic shapes: minutes at the start, then faster steps that "
        "round differently. On the server, or in a run in one process.",
    )
    use_liger_kernel: bool = Field(
        default=False,
        description="Liger's fused norms, rotary embeddings and activations, on a CUDA device; needs "
        "splitft[liger]. On the server, or in a run in one process.",
    )
    loss_chunk_tokens: Annotated[int, Field(ge=0)] = Field(
        default=128,
        description="Head and cross-entropy take so many tokens at a time, and none without a label: the "
        "full logits are never held. The same loss, which a matrix library may add up in another order. 0: "
        "the model's own loss, over the full logits.",
    )
    attn_implementation: Name | None = Field(
        default=None,
        description="As of from_pretrained. Unset: its choice, in bfloat16 on a CPU with a faster backward.",
    )

    # Data
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
    group_by_length: bool = Field(
        default=False, description="Batches of rows of like length: less padding to compute, other batches."
    )
    padding_free: bool = Field(
        default=False,
        description="Compute a batch as one row of all its samples, with position ids, and no padding: the "
        "same but for the order of sums. Where a model cannot, rows are padded, and the run says so.",
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
    method: Literal["splitft", "same_split", "fed_lora", "local_only", "centralized"] = Field(
        default="splitft",
        description="splitft: as this job says. The baselines: same_split (one fixed cut for all), fed_lora "
        "(whole models on the clients), local_only (no exchange at all), centralized (all data in one "
        "place).",
    )
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
    cut_policy: CutPolicyConfig = Field(
        default_factory=CutPolicyConfig, description="How cuts are chosen and adapted."
    )
    order: Literal["parallel", "turns"] = Field(
        default="parallel",
        description="parallel: all clients take step by step together. turns: one client after another takes "
        "all its local steps (the paper's).",
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
    micro_batches: Count | Literal["auto"] = Field(
        default=1,
        description="Parts that each batch is sent in, so that clients, link and server work side by side; "
        "the gradients are those of the whole batch, but for the order of sums. auto: over a network what "
        "the first round's times ask for, in one process 1.",
    )
    max_staleness: Annotated[int, Field(ge=0, le=16)] = Field(
        default=0,
        description="Steps that a client may be ahead of its gradients, which its blocks then lack. 0: none.",
    )
    server_batch_tokens: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default=0,
        description="Most tokens, padding counted, of several clients that the server computes at once, "
        "whatever their cuts. 0: one client at a time. auto: measured at the start. Results then differ in "
        "the order of sums.",
    )
    aggregation: Literal["by_rank", "average", "exact", "freeze_a"] = Field(
        default="by_rank",
        description="by_rank: A and B each (FedAvg), a component over those who hold it. average: the same, "
        "but missing components count as zero. exact: the products B·A, re-factored. freeze_a: A stays "
        "as it started, B is trained and averaged (FFA-LoRA).",
    )

    robust_aggregation: Literal["norm_clip", "none", "median", "trimmed_mean", "krum"] = Field(
        default="norm_clip",
        description="What a broken or dishonest client may do to the average of a block. norm_clip: an "
        "update of more than 3 times the median length is scaled to that length, and its weight by the same "
        "factor. The others leave it out; then median, trimmed_mean: of every value, unweighted; krum: the "
        "one adapter nearest to the others. none: anything.",
    )
    byzantine_clients: Count = Field(
        default=1, description="How many such clients trimmed_mean and krum are to bear."
    )

    # LoRA
    lora_r: Count = Field(default=16, description="Rank of the adapter of every block.")
    lora_r_cut: Count | None = Field(
        default=None,
        description="Rank of the two blocks at a client's cut (paper: 8 of 16). Default: lora_r.",
    )
    lora_r_cut_side: Literal["both", "client", "none"] = Field(
        default="both",
        description="Which of the two blocks have lora_r_cut: both (paper), the client's last one, or none.",
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

    # Wire
    train_front: bool = Field(
        default=True,
        description="No: blocks below the highest cut stay as they are. Clients run forward alone, no "
        "gradient comes down, and a sample's activations go up once in the whole job. Needs "
        "cut_policy.method fixed.",
    )
    activation_cache_gb: float = Field(
        default=1.0,
        ge=0,
        description="With train_front: no, memory of the server for each client's activations; samples "
        "beyond it go up every time. With codec delta, memory of either end for them; samples beyond it go "
        "whole every time.",
    )
    codec: Name | None = Field(
        default=None,
        description="How activations cross the cut: none, bf16, int8 (a quarter of float32), int4, int3, "
        "int2, delta (int4 the first time that a sample crosses, then what has changed), auto (int8 in the "
        "first round, then what codec_budget allows), or a codec "
        "registered from Python. Default: none in one process, int8 over a network.",
    )
    delta_bits: Annotated[int, Field(ge=1, le=4)] = Field(
        default=1, description="With codec delta, bits of a value of what has changed."
    )
    gradient_codec: Name | None = Field(
        default=None,
        description="The same for their gradients, which bear fewer bits. Default: as codec; int2 with "
        "delta.",
    )
    codec_budget: CodecBudgetConfig = Field(
        default_factory=CodecBudgetConfig, description="With codec auto, what the codecs may cost."
    )
    eval_codec: Name | None = Field(
        default=None,
        description="The same for activations of held-out rows. Default: bf16, none with codec none.",
    )

    # Devices
    devices: Name | Names | dict[Name, Name] | None = Field(
        default=None,
        description="Device of every client, one per client in order, or {client: device}: names of presets "
        "or of device_profiles. They drive the virtual clock and the cut policies.",
    )
    server_device: Name = Field(default="gpu_server", description="Device of the server.")
    device_profiles: dict[Name, DeviceProfile] = Field(
        default_factory=dict, description="{name: profile}: devices of your own."
    )

    network: NetworkConfig = Field(
        default_factory=NetworkConfig,
        description="Who takes part in a run over a network (`splitft server`).",
    )

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
    save_every: Annotated[int, Field(ge=0)] = Field(
        default=1, description="Write a checkpoint after every so many rounds, for --resume; 0: never."
    )
    save_total_limit: Count = Field(default=2, description="Checkpoints to keep; a finished run keeps none.")
    use_cpu: bool = Field(default=False, description="Stay on the CPU even where an accelerator is present.")

    @property
    def splits_model(self) -> bool:
        """Whether client and server each run a part of the model; a baseline's clients may run all of it."""
        return self.method in ("splitft", "same_split")

    @property
    def frozen_blocks(self) -> int:
        """Blocks without an adapter, from the first on: with train_front: no, those of the highest cut."""
        if self.train_front:
            return 0
        return max(self.cuts) if isinstance(self.cuts, list) else self.cuts

    @property
    def caches_activations(self) -> bool:
        """Whether the server keeps what each training sample's activations are."""
        return not self.train_front and self.activation_cache_gb > 0 and self.splits_model

    @property
    def chooses_codecs(self) -> bool:
        """Whether codecs are chosen from the first round's batches."""
        return self.codec == "auto" and self.splits_model

    @property
    def sends_differences(self) -> bool:
        """Whether client and server keep what each training sample's activations were."""
        return self.codec == "delta" and self.splits_model

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
                wrong.add(".".join(key_path(loc, cls)))
        values = {key: value for key, value in given_values(data, cls) if key not in wrong}
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

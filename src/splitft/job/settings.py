"""All keys of a job that stand at its top level, each documented once: base classes of `Job`.

A function names the class that it reads.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from splitft.job.algorithms import ObjectiveSettings, OptimSettings, ServerOptimizerSettings
from splitft.job.base_model import ModelSettings as ModelSettings
from splitft.job.data import DataSettings as DataSettings
from splitft.job.data import SeedSettings as SeedSettings
from splitft.job.dp import DPSettings
from splitft.job.evaluation import MetricSettings, PlaceSettings, RowsSettings
from splitft.job.lora import LoraSettings
from splitft.job.privacy import PrivacySettings
from splitft.job.report import ReportSettings
from splitft.job.sections import (
    Count,
    CutPolicyConfig,
    DeviceProfile,
    Name,
    Names,
    NetworkConfig,
    PathName,
    Strict,
    advanced,
    key,
)
from splitft.job.secure import SecureSettings

METHODS = ("splitft", "same_split", "fed_lora", "local_only", "centralized")  # others are registered
SchedulerType = Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"]


class ScheduleSettings(Strict):
    """The number of steps."""

    rounds: Count = key(10, "Rounds of local steps, aggregation and evaluation.")
    local_steps: Count = key(10, "Optimizer steps of each client in a round.")
    gradient_accumulation_steps: Count = key(1, "Micro-batches of one optimizer step.")
    max_steps: Count | None = key(
        None,
        "In place of rounds: optimizer steps of each client in the whole run, a multiple of local_steps. "
        "With clients_per_round, of a client that is in every round.",
    )
    num_train_epochs: float | None = key(
        None,
        "In place of rounds: as many rounds as the client with most rows needs to train on each of them so "
        "often; clients with fewer rows go through theirs more often. With clients_per_round, on average.",
        gt=0,
    )


class SplitSettings(PrivacySettings, PlaceSettings, MetricSettings):
    """The division of the model, and of a step, between client and server."""

    method: Name = key(
        "splitft",
        "splitft: as this job says. The baselines: same_split (one fixed cut for all), fed_lora (whole "
        "models on the clients), local_only (no exchange at all), centralized (all data in one place). Or a "
        "registered method.",
    )
    method_name: Name | None = advanced(
        None, "The registered method that fixed keys of this job; the run sets it."
    )
    cuts: Count | Annotated[list[Count], Field(min_length=1)] = key(
        2, "Blocks on each client: one number, or one per client."
    )
    labels: Literal["server", "client"] = key(
        "server",
        "server: clients send their labels (the text) to the server. client: labels, head and "
        "the last tail_blocks blocks stay on the client.",
    )
    tail_blocks: Annotated[int, Field(ge=0)] | None = key(
        None, "Last blocks on the client. Default: 1 with labels: client, 0 with labels: server."
    )
    server_adapter: Literal["per_client", "shared"] = key(
        "per_client",
        "per_client: the server trains one trunk adapter per client and averages them each "
        "round. shared: one trunk adapter, trained on all clients' batches.",
    )
    train_front: bool = key(
        True,
        "No: blocks below the highest cut stay as they are. Clients run forward alone, no gradient comes "
        "down, and a sample's activations go up once in the whole job. Needs cut_policy.method fixed.",
    )

    @property
    def splits_model(self) -> bool:
        """Whether client and server each run a part of the model; a baseline's clients may run all of it."""
        return self.method in ("splitft", "same_split")

    @property
    def num_tail_blocks(self) -> int:
        """Blocks of the tail: as stated, else one where labels stay on the client."""
        return int(self.labels == "client") if self.tail_blocks is None else self.tail_blocks

    @property
    def evaluates_at_server(self) -> bool:
        """Whether the server evaluates held-out rows by itself, from ids that clients send once."""
        return self.splits_model and self.labels == "server" and self.server_evaluates is not False

    @property
    def frozen_blocks(self) -> int:
        """Blocks without an adapter, from the first on: with train_front: no, those of the highest cut."""
        if self.train_front:
            return 0
        return max(self.cuts) if isinstance(self.cuts, list) else self.cuts


class AverageSettings(ServerOptimizerSettings, SecureSettings):
    """The average of a round."""

    aggregation: Name = key(
        "by_rank",
        "by_rank: A and B each (FedAvg), a component over those who hold it. average: the same, "
        "but missing components count as zero. exact: the products B·A, re-factored. freeze_a: A stays "
        "as it started, B is trained and averaged (FFA-LoRA). Or a registered rule.",
    )
    robust_aggregation: Name = key(
        "norm_clip",
        "What a broken or dishonest client may do to the average of a block. norm_clip: an "
        "update of more than 3 times the median length is scaled to that length, and its weight by the same "
        "factor. The others leave it out; then median, trimmed_mean: of every value, unweighted; krum: the "
        "one adapter nearest to the others. none: anything. Or a registered rule.",
    )
    byzantine_clients: Count = advanced(
        1, "Broken or dishonest clients that trimmed_mean and krum withstand."
    )

    @property
    def freeze_a(self) -> bool:
        """Whether A stays as it started, and B alone is trained and averaged."""
        return self.aggregation == "freeze_a"


class OptimizerSettings(OptimSettings, ScheduleSettings):
    """The optimizer, its schedule and its clipping."""

    learning_rate: float = key(2e-4, "Peak learning rate.", gt=0)
    weight_decay: float = key(0.0, "Weight decay: decoupled with AdamW.", ge=0)
    adam_beta1: float = advanced(0.9, "AdamW's first beta.", ge=0, lt=1)
    adam_beta2: float = advanced(0.999, "AdamW's second beta.", ge=0, lt=1)
    adam_epsilon: float = advanced(1e-8, "AdamW's epsilon.", gt=0)
    max_grad_norm: float = key(
        1.0, "Clip the norm over front, trunk and tail; 0: never. With dp: of each row's gradient.", ge=0
    )
    lr_scheduler_type: SchedulerType = key("linear", "Schedule over all rounds' steps.")
    warmup_ratio: float = key(0.0, "Share of all steps used to warm up.", ge=0, lt=1)
    warmup_steps: Annotated[int, Field(ge=0)] = key(0, "Steps of warm-up; overrides the ratio.")
    loraplus_lr_ratio: float | None = key(
        None, "LoRA+: the learning rate of B is this times that of A, which is learning_rate.", gt=0
    )


class BatchSettings(ScheduleSettings, SeedSettings):
    """Batches: their size, layout, parts and order."""

    per_device_train_batch_size: Count = key(8, "Rows of one client's micro-batch.")
    per_device_eval_batch_size: Count = key(8, "Rows of one evaluation batch.")
    group_by_length: bool = key(
        False, "Batches of rows of like length: less padding to compute, other batches."
    )
    padding_free: bool | Literal["auto"] = key(
        "auto",
        "Compute a batch as one row of all its samples, with position ids, and no padding: the "
        "same but for the order of sums. true: where a model cannot, rows are padded, and the run says so. "
        "auto: on a CPU, where the model is proven for it and rows differ in length (several rows a batch, "
        "no packing, no group_by_length, no server_batch_tokens); else rows are padded.",
    )
    micro_batches: Literal["off", "auto"] | Annotated[int, Field(ge=2)] = advanced(
        "off",
        "Batches in parts, so that clients, link and server work side by side; gradients differ "
        "from those of whole batches in the order of sums only. off: whole batches. auto: over a network, "
        "the number of parts that the first round's times ask for; in one process, whole batches.",
    )
    max_staleness: Annotated[int, Field(ge=0, le=16)] = advanced(
        0, "Steps that a client may be ahead of its gradients, which its blocks then lack. 0: none."
    )
    server_batch_tokens: Literal["off", "auto"] | Count = advanced(
        "off",
        "Most tokens, padding counted, of several clients that the server computes at once, "
        "whatever their cuts; results then differ in the order of sums. off: one client at a time. auto: "
        "the limit is measured at the start.",
    )

    @property
    def without_padding(self) -> bool:
        """Whether batches are computed without padding. The start of a run settles `auto`; before, no."""
        return self.padding_free is True

    @property
    def batches_clients(self) -> bool:
        """Whether the server may compute several clients at once."""
        return self.server_batch_tokens != "off"


class TrainingSettings(
    SplitSettings,
    LoraSettings,
    AverageSettings,
    ObjectiveSettings,
    OptimizerSettings,
    BatchSettings,
    DPSettings,
):
    """Everything that decides what a training step computes."""


class FederationSettings(SplitSettings, ScheduleSettings, SeedSettings, RowsSettings):
    """The rounds: their members, their cuts, their order, and their evaluations."""

    clients_per_round: Count | None = key(None, "Clients sampled each round; default: all.")
    cut_policy: CutPolicyConfig = Field(
        default_factory=CutPolicyConfig, description="How cuts are chosen and adapted."
    )
    order: Literal["parallel", "turns"] = key(
        "parallel",
        "parallel: all clients take step by step together. turns: one client after another takes "
        "all its local steps (the paper's).",
    )
    replay_cohorts: PathName | None = advanced(
        None,
        "The `cohorts.jsonl` of a run over a network: each round has the clients that counted there. In one "
        "process only.",
    )


class EvaluationSettings(FederationSettings, BatchSettings):
    """Everything that decides which held-out rows an evaluation takes."""


class DeviceSettings(Strict):
    """Devices of the virtual clock."""

    devices: Name | Names | dict[Name, Name] | None = key(
        None,
        "Device of every client, one per client in order, or {client: device}: names of presets "
        "or of device_profiles. They drive the virtual clock and the cut policies.",
    )
    server_device: Name = key("gpu_server", "Device of the server.")
    device_profiles: dict[Name, DeviceProfile] = Field(
        default_factory=dict, description="{name: profile}: devices of your own."
    )


class WireSettings(SplitSettings):
    """Codecs, and what the server remembers of samples."""

    activation_cache_gb: float = advanced(
        1.0,
        "With train_front: no, memory of the server for each client's activations; samples beyond it go up "
        "every time. With codec delta, memory of either end for them; samples beyond it go whole every time.",
        ge=0,
    )
    codec: Name | None = key(
        None,
        "How activations cross the cut: none, bf16, int8 (a quarter of float32), int4, int3, "
        "int2, delta (int4 the first time that a sample crosses, then what has changed), or a codec "
        "registered from Python. Default: none in one process, int8 over a network.",
    )
    delta_bits: Annotated[int, Field(ge=1, le=4)] = advanced(
        1, "With codec delta, bits of a value of what has changed."
    )
    gradient_codec: Name | None = key(
        None, "The same for their gradients, which bear fewer bits. Default: as codec; int2 with delta."
    )
    eval_codec: Name | None = advanced(
        None, "How activations of held-out rows cross the cut. Default: bf16; none with codec none."
    )

    @property
    def caches_activations(self) -> bool:
        """Whether the server keeps what each training sample's activations are."""
        return not self.train_front and self.activation_cache_gb > 0 and self.splits_model

    @property
    def sends_differences(self) -> bool:
        """Whether client and server keep what each training sample's activations were."""
        return self.codec == "delta" and self.splits_model


class CostSettings(ModelSettings, DataSettings, EvaluationSettings, TrainingSettings, WireSettings):
    """Everything that decides what a round computes, holds and sends, whatever the machines."""


class NetworkSettings(Strict):
    """Members of a run over a network."""

    network: NetworkConfig = Field(
        default_factory=NetworkConfig,
        description="Who takes part in a run over a network (`splitft server`).",
    )


class RunSettings(ReportSettings):
    """The run as a process: its folder, its checkpoints, and who is told of it."""

    output_dir: PathName = key("runs/splitft", "Folder of this run; must not hold another one.")
    save_every: Annotated[int, Field(ge=0)] = key(
        1, "Rounds from one checkpoint, for --resume, to the next; 0: none, not even at the end."
    )
    save_total_limit: Count = advanced(2, "Checkpoints to keep; a finished run keeps the last.")
    num_sample_continuations: Annotated[int, Field(ge=0, le=100)] = key(
        0,
        "Held-out rows that the model continues before and after the run, for the summary and the report, "
        "which then hold text of these rows. In one process only: a server never has the rows. 0: none.",
    )

"""Names of pieces that a job asks for, checked before anything heavy starts."""

from __future__ import annotations

from splitft.cuts.registry import CUT_POLICIES
from splitft.data.partition.registry import PARTITIONS
from splitft.data.redaction.registry import REDACTORS
from splitft.devices.profile import check_devices
from splitft.job.report import ReportSettings
from splitft.job.settings import CostSettings, DeviceSettings
from splitft.lora.client_optimizer import check_optimizer
from splitft.lora.objective import OBJECTIVES
from splitft.lora.rules import AGGREGATIONS, ROBUST_RULES
from splitft.lora.server_optimizer import SERVER_OPTIMIZERS
from splitft.model.metrics import METRICS
from splitft.running.callbacks import CALLBACKS
from splitft.running.methods import METHODS
from splitft.wire.codecs.registry import check_codecs


def check_names(job: CostSettings, devices: DeviceSettings, report: ReportSettings) -> None:
    """Raise JobError where the job names a piece that is not built in and that nobody has registered.

    A job file may name pieces that its reader registers later, so `Job` itself does not check them.
    """
    METHODS.check("method", job.method)
    CUT_POLICIES.check("cut_policy.method", job.cut_policy.method)
    SERVER_OPTIMIZERS.check("server_optimizer", job.server_optimizer)
    AGGREGATIONS.check("aggregation", job.aggregation)
    ROBUST_RULES.check("robust_aggregation", job.robust_aggregation)
    for name in report.callbacks:
        CALLBACKS.check("callbacks", name)
    check_devices(devices)
    check_client_names(job)


def check_client_names(job: CostSettings) -> None:
    """Raise JobError where nobody has registered a piece that a client computes with."""
    check_codecs(job)
    PARTITIONS.check("partition.method", job.partition.method)
    if job.redact.function:
        REDACTORS.check("redact.function", job.redact.function)
    for name in job.metrics:
        METRICS.check("metrics", name)
    OBJECTIVES.check("objective", job.objective)
    check_optimizer(job)

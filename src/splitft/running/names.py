"""Names of pieces that a job asks for, checked before anything heavy starts."""

from __future__ import annotations

from splitft.cuts.registry import CUT_POLICIES
from splitft.devices.profile import check_devices
from splitft.job.settings import CostSettings, DeviceSettings
from splitft.lora.client_optimizer import check_optimizer
from splitft.lora.objective import OBJECTIVES
from splitft.lora.server_optimizer import SERVER_OPTIMIZERS
from splitft.wire.codecs.registry import check_codecs


def check_names(job: CostSettings, devices: DeviceSettings) -> None:
    """Raise JobError where the job names a piece that is not built in and that nobody has registered.

    A job file may name pieces that its reader registers later, so `Job` itself does not check them.
    """
    CUT_POLICIES.check("cut_policy.method", job.cut_policy.method)
    check_client_names(job)
    SERVER_OPTIMIZERS.check("server_optimizer", job.server_optimizer)
    check_devices(devices)


def check_client_names(job: CostSettings) -> None:
    """Raise JobError where the job names a piece that its clients need and nobody has registered here."""
    check_codecs(job)
    OBJECTIVES.check("objective", job.objective)
    check_optimizer(job)

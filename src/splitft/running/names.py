"""Names of pieces that a job asks for, checked before anything heavy starts."""

from __future__ import annotations

from splitft.cuts.registry import CUT_POLICIES
from splitft.devices.profile import check_devices
from splitft.job.settings import CostSettings, DeviceSettings
from splitft.wire.codecs.registry import check_codecs


def check_names(job: CostSettings, devices: DeviceSettings) -> None:
    """Raise JobError where the job names a piece that is not built in and that nobody has registered.

    A job file may name pieces that its reader registers later, so `Job` itself does not check them.
    """
    CUT_POLICIES.check("cut_policy.method", job.cut_policy.method)
    check_codecs(job)
    check_devices(devices)

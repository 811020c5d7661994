"""The contracts of devices, callbacks and methods."""

from __future__ import annotations

from splitft.devices.profile import resolve_device
from splitft.devices.registry import DEVICES
from splitft.job import load_job
from splitft.job.sections import DeviceProfile
from splitft.job.settings import SplitSettings
from splitft.running.callbacks import Callback, MakeCallback
from splitft.running.methods import METHODS, Method, with_method
from splitft.testing.contract import contract, require

_NAME = "under test"


def check_device(profile: DeviceProfile) -> None:
    """Check a device as it is registered: its preset exists, and all its numbers are known."""
    with contract():
        DEVICES.register(_NAME, profile)
        resolve_device(_NAME, {})


def check_callback(make: MakeCallback) -> None:
    """Check a callback as it is registered: it is a Callback, and all of its events exist."""
    made = make()
    require(isinstance(made, Callback), f"a callback must be a splitft.Callback, not {type(made).__name__}")
    events = {name for name in dir(Callback) if name.startswith("on_")}
    own = {name for name in dir(made) if name.startswith("on_")}
    unknown = ", ".join(sorted(own - events))
    require(not unknown, f"no run calls {unknown}; its events are {', '.join(sorted(events))}")


def check_method(function: Method, job: SplitSettings | None = None) -> None:
    """Check a method as it is registered: it fixes keys that a job has, and the same ones each time.

    job: the job that the method is given; default: the recipe quickstart.
    """
    job = job or load_job("quickstart")
    with contract():
        METHODS.register(_NAME, function)
        named = job.model_copy(update={"method": _NAME})
        one, other = with_method(named), with_method(named)
    require(one == other, "the method fixed other keys when asked again")

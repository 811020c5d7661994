"""Devices by name: the presets, and those that a user registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

from splitft.common.registry import Registry
from splitft.devices.presets import PRESETS
from splitft.job.sections import DeviceProfile

DEVICES: Registry[DeviceProfile] = Registry("device", "register_device", PRESETS, value=DeviceProfile)


@overload
def register_device(name: str, profile: DeviceProfile) -> DeviceProfile: ...
@overload
def register_device(name: str, profile: None = None) -> Callable[[DeviceProfile], DeviceProfile]: ...
def register_device(
    name: str, profile: DeviceProfile | None = None
) -> DeviceProfile | Callable[[DeviceProfile], DeviceProfile]:
    """Register a device of your own, for the keys `devices` and `server_device`, and as a profile's preset.

    profile: a DeviceProfile; numbers that it leaves out are its preset's.

    Raises JobError for a preset's name, an empty one, or what is no DeviceProfile.
    """
    return DEVICES.register(name, profile)

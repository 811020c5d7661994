"""Which device each client has: names of presets, or of the job's own profiles, as Device values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from splitft.common.text import nearest
from splitft.devices.device import Device
from splitft.devices.registry import DEVICES
from splitft.errors import JobError
from splitft.job.sections import DeviceProfile, per_client
from splitft.job.settings import DeviceSettings


def resolve_device(name: str, profiles: Mapping[str, DeviceProfile], *, key: str = "devices") -> Device:
    """Return the device of this name: a preset, or a profile, which starts from its preset.

    slowdown divides the FLOP/s, the profile's own or else the preset's. key: the job's key that gave the
    name, for the message. Raises JobError where there is no such device or preset, and where a profile has a
    preset's name: `laptop` in a report then always means the same machine.
    """
    for taken in profiles:
        if DEVICES.is_built_in(taken):
            raise JobError(
                f"device_profiles.{taken}: {taken} is a preset's name, which cannot be given again; "
                f"choose another, and start from it with preset: {taken}"
            )
    if name not in profiles and name not in DEVICES.names():
        raise JobError(f"{key}: {_unknown('device', name, [*DEVICES.names(), *profiles])}")
    profile = profiles.get(name) or DeviceProfile(preset=name)
    numbers = _numbers(profile, f"device_profiles.{name}.preset")
    return Device(
        name,
        flops=numbers["flops"] / numbers["slowdown"],
        memory_bytes=round(numbers["memory_gb"] * 1e9),
        uplink_bytes_per_second=numbers["uplink_mbps"] * 1e6 / 8,
        downlink_bytes_per_second=numbers["downlink_mbps"] * 1e6 / 8,
        latency_seconds=numbers["latency_ms"] / 1e3,
        availability=numbers["availability"] or 1.0,
    )


def check_devices(job: DeviceSettings) -> None:
    """Raise JobError where the job names a device that is neither a preset nor one of its profiles.

    Called before the data are read; `client_devices` then checks the clients' names.
    """
    given = job.devices or []
    names = [given] if isinstance(given, str) else list(given.values() if isinstance(given, dict) else given)
    for name in dict.fromkeys(names):
        resolve_device(name, job.device_profiles)
    resolve_device(job.server_device, job.device_profiles, key="server_device")


def client_devices(job: DeviceSettings, names: Sequence[str]) -> dict[str, Device]:
    """Return {client: device} in the clients' order; empty where the job states no devices.

    Raises JobError where a client has no device, a device no client, or a name is unknown.
    """
    if job.devices is None:
        return {}
    if isinstance(job.devices, str | list):
        chosen = per_client("devices", job.devices, names)
    else:
        strangers = [client for client in job.devices if client not in names]
        if strangers:
            raise JobError(f"devices: {_unknown('client', strangers[0], names)}")
        missing = [client for client in names if client not in job.devices]
        if missing:
            raise JobError(f"devices: no device for {', '.join(missing)}; name one for every client")
        chosen = {client: job.devices[client] for client in names}
    resolved = {name: resolve_device(name, job.device_profiles) for name in dict.fromkeys(chosen.values())}
    return {client: resolved[name] for client, name in chosen.items()}


def available_members(
    devices: Mapping[str, Device], names: Iterable[str], seed: int, round_: int
) -> list[str]:
    """Return those of `names`, in their order, whose device is there in this round; it may be none.

    Each client's chance is its device's availability, drawn by client and round alone; a client without a
    device is always there.
    """
    from splitft.common.seeds import derive_seed  # torch, which profiles do without

    def there(name: str) -> bool:
        if name not in devices:
            return True
        return derive_seed(seed, "availability", name, round_) / 2**63 < devices[name].availability

    return [name for name in names if there(name)]


def _numbers(profile: DeviceProfile, key: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return all numbers of a profile; what it leaves out is its preset's, and so on.

    above: presets that led here. Raises JobError, which names the key, for an unknown preset or a circle.
    """
    own, preset = profile.model_dump(exclude_unset=True, exclude_none=True), profile.preset
    if DEVICES.is_built_in(preset):
        return DEVICES.find(preset).model_dump() | own
    if preset not in DEVICES.names():
        raise JobError(f"{key}: {_unknown('preset', preset, DEVICES.names())}")
    if preset in above:
        raise JobError(f"{key}: the registered device {preset} has itself as its preset")
    return _numbers(DEVICES.find(preset), key, (*above, preset)) | own


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    hint = nearest(name.lower().replace("-", "_"), names, "; ")
    return (
        f"there is no {kind} {name!r}{hint or ';'} Known: {', '.join(names)}; others come from --plugin "
        "MODULE, from an installed package with a plugin, or from splitft.register_device"
    )

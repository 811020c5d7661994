"""Which device each client has: names of presets, or of the job's own profiles, as Device values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from splitft.common.text import nearest
from splitft.devices.device import Device
from splitft.devices.presets import PRESETS
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
        if taken in PRESETS:
            raise JobError(
                f"device_profiles.{taken}: {taken} is a preset's name, which cannot be given again; "
                f"choose another, and start from it with preset: {taken}"
            )
    if name not in PRESETS and name not in profiles:
        raise JobError(f"{key}: {_unknown('device', name, [*PRESETS, *profiles])}")
    profile = profiles.get(name) or DeviceProfile(preset=name)
    if profile.preset not in PRESETS:
        raise JobError(f"device_profiles.{name}.preset: {_unknown('preset', profile.preset, PRESETS)}")
    numbers = PRESETS[profile.preset].model_dump() | profile.model_dump(exclude_none=True)
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


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    hint = nearest(name.lower().replace("-", "_"), names, "; ")
    return f"there is no {kind} {name!r}{hint or ';'} Known: {', '.join(names)}"

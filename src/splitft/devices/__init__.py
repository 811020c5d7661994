"""Devices and virtual time: what machines can do, what a model costs, and how long a round takes on them.

device, presets, profile: the machines. costs (matrices, probe): a model in plain numbers. flops, memory,
steps: functions of them. simulate, schedules: a round. clock: listens to a run.
"""

from __future__ import annotations

from splitft.devices.costs import BlockCosts, ModelCosts
from splitft.devices.device import Device, transfer_seconds
from splitft.devices.memory import client_memory, highest_cut_in_memory, server_memory
from splitft.devices.presets import PRESETS
from splitft.devices.profile import available_members, check_devices, client_devices, resolve_device
from splitft.devices.simulate import (
    ClientTimes,
    ClientTrace,
    RoundTimes,
    StepTrace,
    batch_shape,
    simulate_round,
)
from splitft.devices.steps import StepSeconds, batch_bytes, client_state_seconds, step_work

__all__ = [
    "PRESETS",
    "BlockCosts",
    "ClientTimes",
    "ClientTrace",
    "Device",
    "ModelCosts",
    "RoundTimes",
    "StepSeconds",
    "StepTrace",
    "available_members",
    "batch_bytes",
    "batch_shape",
    "check_devices",
    "client_devices",
    "client_memory",
    "client_state_seconds",
    "highest_cut_in_memory",
    "resolve_device",
    "server_memory",
    "simulate_round",
    "step_work",
    "transfer_seconds",
]

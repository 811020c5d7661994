"""Devices and virtual time: what machines can do, what a model costs, and how long a round takes on them.

device, presets, profile, mix: the machines. costs (matrices, probe): a model in plain numbers. flops, memory,
steps: functions of them. trace, simulate, schedules, times: a round. clock: listens to a run.
"""

from __future__ import annotations

from splitft.devices.costs import BlockCosts, ModelCosts
from splitft.devices.device import Device, transfer_seconds
from splitft.devices.memory import MemoryUse, client_memory, highest_cut_in_memory, server_memory
from splitft.devices.mix import available_members, draw_devices
from splitft.devices.presets import PRESETS
from splitft.devices.profile import check_devices, client_devices, resolve_device
from splitft.devices.simulate import (
    ClientTimes,
    ClientTrace,
    RoundTimes,
    StepTrace,
    batch_shape,
    simulate_round,
)
from splitft.devices.steps import StepSeconds, StepWork, batch_bytes, client_state_seconds, step_work

__all__ = [
    "PRESETS",
    "BlockCosts",
    "ClientTimes",
    "ClientTrace",
    "Device",
    "MemoryUse",
    "ModelCosts",
    "RoundTimes",
    "StepSeconds",
    "StepTrace",
    "StepWork",
    "available_members",
    "batch_bytes",
    "batch_shape",
    "check_devices",
    "client_devices",
    "client_memory",
    "client_state_seconds",
    "draw_devices",
    "highest_cut_in_memory",
    "resolve_device",
    "server_memory",
    "simulate_round",
    "step_work",
    "transfer_seconds",
]

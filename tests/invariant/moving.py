"""Devices and moves of cuts that tests share."""

from __future__ import annotations

DEVICES = {
    "devices": ["slowest", "slow", "fast", "fastest"],
    "server_device": "fast",  # a server as slow as a client: the makespan then depends on all cuts
    "device_profiles": {
        name: {"preset": "laptop", "flops": 1e6 * speed, "availability": 1.0}
        for name, speed in {"slowest": 1, "slow": 2, "fast": 4, "fastest": 8}.items()
    },
}
UP_AND_DOWN = {"method": "schedule", "schedule": {"1": 2, "2": 4, "3": [1, 2, 3, 4]}}

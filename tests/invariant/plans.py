"""Plans that tests make, and the comparison with their runs."""

from __future__ import annotations

from typing import Any

from runs import QUIET, Settings

from splitft import Job
from splitft.tools.plan.command import plan_command

DEVICES = {
    "devices": ["slow", "fast", "flaky", "slow"],
    "server_device": "fast",  # no faster than a client, so that the clients wait for each other there
    "device_profiles": {
        "slow": {"flops": 1e6, "uplink_mbps": 1},
        "fast": {"flops": 8e6, "uplink_mbps": 8, "preset": "workstation"},
        "flaky": {"flops": 2e6, "latency_ms": 20, "preset": "phone", "availability": 0.6},
    },
}


def planned(settings: Settings, **changes: Any) -> dict[str, Any]:
    return plan_command(Job(**{**settings, **changes}), console=QUIET)


def assert_is_the_run(plan: dict[str, Any], result: Any) -> None:
    """Every kind and direction of every round, to the byte; cuts; virtual time to the last bit."""
    assert plan["bytes"] == result.summary["bytes"]
    rounds = [
        {"round": r.round, "cuts": r.cuts, "bytes": r.bytes, "virtual_seconds": r.virtual_seconds}
        for r in result.history
    ]
    assert plan["rounds"] == rounds
    assert plan["virtual_seconds"] == result.summary.get("virtual_seconds")

"""Devices to start from. They are stated assumptions, round numbers of a class of machine, not measurements.

Where a real machine is at hand, give its numbers in `device_profiles`; a preset only says which order of
magnitude is meant. FLOP/s are what training sustains, a small part of the peak on a data sheet.
"""

from __future__ import annotations

from splitft.job.sections import DeviceProfile

PRESETS = {
    # A recent phone that stays cool, half of its 8 GB free for training, on a mobile network.
    "phone": DeviceProfile(flops=2e11, memory_gb=4, uplink_mbps=15, downlink_mbps=60, latency_ms=40),
    # A laptop without a graphics card, on a home connection.
    "laptop": DeviceProfile(flops=5e11, memory_gb=12, uplink_mbps=40, downlink_mbps=200, latency_ms=15),
    # A small embedded GPU (Jetson class) in a branch office or a workshop.
    "edge_box": DeviceProfile(flops=2e12, memory_gb=8, uplink_mbps=50, downlink_mbps=100, latency_ms=15),
    # A desktop with one consumer GPU of 24 GB, on an office's fibre.
    "workstation": DeviceProfile(flops=2e13, memory_gb=22, uplink_mbps=500, downlink_mbps=500, latency_ms=5),
    # One data-centre GPU of 80 GB, close to the backbone.
    "gpu_server": DeviceProfile(
        flops=2e14, memory_gb=76, uplink_mbps=10_000, downlink_mbps=10_000, latency_ms=1
    ),
    # A workstation behind a hospital's shared link, proxies and all.
    "hospital_link": DeviceProfile(flops=2e13, memory_gb=22, uplink_mbps=20, downlink_mbps=50, latency_ms=30),
}

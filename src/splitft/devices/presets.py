"""Devices to start from. They are stated assumptions, round numbers of a class of machine, not measurements.

Where a real machine is at hand, give its numbers in `device_profiles`; a preset only says which order of
magnitude is meant. FLOP/s are what training sustains, a small part of the peak on a data sheet.
"""

from __future__ import annotations

from splitft.devices.device import Device


def _device(
    name: str, tflops: float, memory_gb: float, up_mbps: float, down_mbps: float, ms: float
) -> Device:
    return Device(
        name,
        flops=tflops * 1e12,
        memory_bytes=round(memory_gb * 1e9),
        uplink_bytes_per_second=up_mbps * 1e6 / 8,
        downlink_bytes_per_second=down_mbps * 1e6 / 8,
        latency_seconds=ms / 1e3,
    )


PRESETS: dict[str, Device] = {
    device.name: device
    for device in (
        # A recent phone that stays cool, half of its 8 GB free for training, on a mobile network.
        _device("phone", tflops=0.2, memory_gb=4, up_mbps=15, down_mbps=60, ms=40),
        # A laptop without a graphics card, on a home connection.
        _device("laptop", tflops=0.5, memory_gb=12, up_mbps=40, down_mbps=200, ms=15),
        # A small embedded GPU (Jetson class) in a branch office or a workshop.
        _device("edge_box", tflops=2, memory_gb=8, up_mbps=50, down_mbps=100, ms=15),
        # A desktop with one consumer GPU of 24 GB, on an office's fibre.
        _device("workstation", tflops=20, memory_gb=22, up_mbps=500, down_mbps=500, ms=5),
        # One data-centre GPU of 80 GB, close to the backbone.
        _device("gpu_server", tflops=200, memory_gb=76, up_mbps=10_000, down_mbps=10_000, ms=1),
        # A workstation behind a hospital's shared link, proxies and all.
        _device("hospital_link", tflops=20, memory_gb=22, up_mbps=20, down_mbps=50, ms=30),
    )
}

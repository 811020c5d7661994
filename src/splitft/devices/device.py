"""A device: what the virtual clock and the cut policies know of a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One machine and its way to the network, in bytes, seconds and FLOP/s.

    flops: what it sustains in training, in the base's dtype, not its peak. latency_seconds: one way.
    availability: probability that it takes part in a round.
    """

    name: str
    flops: float
    memory_bytes: int
    uplink_bytes_per_second: float
    downlink_bytes_per_second: float
    latency_seconds: float
    availability: float = 1.0


def transfer_seconds(sender: Device, receiver: Device, number: int) -> float:
    """Return the seconds of one message of `number` bytes; nothing sent (0) takes no time.

    Both ends' latency, and the slower of the sender's uplink and the receiver's downlink. A link is not
    shared: messages of several clients do not slow each other down.
    """
    if not number:
        return 0.0
    return sender.latency_seconds + receiver.latency_seconds + link_seconds(sender, receiver, number)


def link_seconds(sender: Device, receiver: Device, number: float) -> float:
    """Return the seconds of `number` bytes on a link, without latency."""
    return number / min(sender.uplink_bytes_per_second, receiver.downlink_bytes_per_second)

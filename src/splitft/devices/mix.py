"""Cohorts of many devices: who has which, and who is there in a round. Seeded, no state. (ours)"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from splitft.devices.device import Device
from splitft.errors import JobError


def draw_devices(mix: Mapping[str, float], count: int, seed: int) -> list[str]:
    """Return the devices of `count` clients: as many of each as its share of the mix says, in random order.

    mix: {device: share}, shares of any positive sum; each number is exact to one client, so that a small
    cohort has the mix too. The same seed gives the same list, whatever the order of the mapping. Raises
    JobError on shares that are no shares.
    """
    import numpy as np

    from splitft.common.seeds import numpy_generator
    from splitft.common.shares import largest_remainder

    if count < 1:
        raise JobError(f"cannot draw devices for {count} clients: give a number from 1 on")
    wrong = [f"{name}: {share}" for name, share in mix.items() if not (math.isfinite(share) and share >= 0)]
    if wrong or not sum(mix.values()) > 0:
        got = ", ".join(wrong) or dict(mix)
        raise JobError(f"device mix: shares must be numbers from 0 on, and not all 0; got {got}")
    names = sorted(mix)
    counts = largest_remainder(np.array([float(mix[name]) for name in names]), count)
    devices = np.repeat(np.arange(len(names)), counts)
    order = numpy_generator(seed, "devices").permutation(devices)
    return [names[i] for i in order.tolist()]


def available_members(
    devices: Mapping[str, Device], names: Iterable[str], seed: int, round_: int
) -> list[str]:
    """Return those of `names`, in their order, whose device is there in this round; it may be none.

    Each client's chance is its device's availability, drawn by client and round alone; a client without a
    device is always there.
    """
    from splitft.common.seeds import derive_seed

    def there(name: str) -> bool:
        if name not in devices:
            return True
        return derive_seed(seed, "availability", name, round_) / 2**63 < devices[name].availability

    return [name for name in names if there(name)]

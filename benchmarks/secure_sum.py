"""A masked sum: CPU and wall seconds of each client and of the server, and the bytes that a client sends.

    python benchmarks/secure_sum.py [--clients 5] [--values 5000000] [--lost 1] [--repeats 3]

Signed keys, shares, fixed-point numbers, masks, signatures of who is left, revealed shares, the sum and its
unmasking: on one thread, in one process, without a connection. The values are random changes of adapters.
`--lost`: clients that are lost after they have shared their secrets; the server takes their masks away.
Beside them the plain weighted mean of the same adapters, and how far the two are apart.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from benchlib.record import RESULTS, save, spread, table

from splitft.engines.network.transport.certs import add_client, create_authority
from splitft.engines.network.transport.signing import CertificateSignatures
from splitft.lora.summed import added, share_of
from splitft.wire.secagg.fixed_point import FixedPoint
from splitft.wire.secagg.member import SumMember
from splitft.wire.secagg.roll import context_of, threshold_of
from splitft.wire.secagg.unmask import Unmasking

RANGE = 2.0  # as `secure_aggregation_range`
T = TypeVar("T")


class Clock:
    """Wall and CPU seconds by party."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def of(self, party: str, does: Callable[..., T], *given: Any) -> T:
        """Return what a function returns, and add its time to that of a party."""
        wall, cpu = time.perf_counter(), time.process_time()
        done = does(*given)
        self.wall[party] = self.wall.get(party, 0.0) + time.perf_counter() - wall
        self.cpu[party] = self.cpu.get(party, 0.0) + time.process_time() - cpu
        return done


def round_of(signers: dict[str, CertificateSignatures], changes: dict[str, torch.Tensor], lost: int) -> Any:
    """Run one sum; return its clock, its mean, and the bytes that one client sends."""
    clock, context, names = Clock(), context_of(1, 1), list(signers)
    weights = {name: 1000 + 100 * place for place, name in enumerate(names)}
    points, threshold = FixedPoint(RANGE, len(names)), threshold_of(len(names), None)
    members = {
        name: clock.of(name, SumMember, name, context, weights[name], None, 3, signers[name])
        for name in names
    }
    roll = {name: members[name].keys() for name in names}
    sealed = {name: clock.of(name, members[name].seal, roll) for name in names}
    survivors, masked = names[: len(names) - lost], {}

    def mask(name: str) -> torch.Tensor:
        numbers = points.encode(changes[name], share_of(weights, [name]))
        given = {other: own[name] for other, own in sealed.items() if other != name}
        members[name].mask(numbers.numpy().view(np.uint32), given)
        return numbers

    for name in survivors:
        masked[name] = clock.of(name, mask, name)
    signed = {name: clock.of(name, members[name].sign, survivors) for name in survivors}
    revealed = {name: clock.of(name, members[name].reveal, signed) for name in survivors}

    def unmask() -> torch.Tensor:
        unmasking = Unmasking(context, roll, threshold, names, survivors)
        (total,) = added([[masked[name]] for name in survivors])
        unmasking.remove(total.numpy().view(np.uint32), unmasking.secrets(revealed))
        return points.decode(total, share_of(weights, survivors))

    mean = clock.of("server", unmask)
    own = names[0]
    keys = roll[own]
    sent = {
        "masked adapter": 4 * masked[own].numel(),
        "keys and certificate": 96 + len(keys.certificate) + len(keys.signature),
        "sealed shares": sum(map(len, sealed[own].values())),
        "signature, revealed shares": len(signed[own]) + sum(map(len, revealed[own].values())),
    }
    plain = time.perf_counter()
    wanted = sum(changes[name].double() * weights[name] for name in survivors)
    wanted = wanted / sum(weights[name] for name in survivors)
    plain = time.perf_counter() - plain
    return clock, float((mean - wanted).abs().max()), points.error(share_of(weights, survivors)), sent, plain


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--values", type=int, default=5_000_000)
    parser.add_argument("--lost", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = [f"client-{number}" for number in range(asked.clients)]
    with tempfile.TemporaryDirectory() as folder:
        create_authority(Path(folder) / "certs")
        signers = {name: CertificateSignatures(add_client(Path(folder) / "certs", name)) for name in names}
    generator = torch.Generator().manual_seed(1)
    changes = {name: 0.002 * torch.randn(asked.values, generator=generator) for name in names}
    runs = [round_of(signers, changes, asked.lost) for _ in range(asked.repeats)]
    survivors = names[: asked.clients - asked.lost]
    result = {
        "clients": asked.clients, "values": asked.values, "lost": asked.lost,
        "client_cpu_seconds": spread([max(run[0].cpu[name] for name in survivors) for run in runs]),
        "client_wall_seconds": spread([max(run[0].wall[name] for name in survivors) for run in runs]),
        "server_cpu_seconds": spread([run[0].cpu["server"] for run in runs]),
        "server_wall_seconds": spread([run[0].wall["server"] for run in runs]),
        "round_wall_seconds": spread(
            [max(run[0].wall[name] for name in survivors) + run[0].wall["server"] for run in runs]
        ),
        "plain_mean_seconds": spread([run[4] for run in runs]),
        "largest_error": runs[0][1], "error_bound": runs[0][2], "bytes_up": runs[0][3],
    }  # fmt: skip
    rows = [
        [name, *(f"{result[f'{key}_seconds'][which]:.3f}" for which in ("median", "min", "max"))]
        for name, key in (
            ("slowest client, CPU", "client_cpu"), ("slowest client", "client_wall"),
            ("server, CPU", "server_cpu"), ("server", "server_wall"),
            ("round: slowest client, then server", "round_wall"), ("plain mean alone", "plain_mean"),
        )
    ]  # fmt: skip
    print(table(["seconds", "median", "least", "most"], rows))
    print(f"largest error {runs[0][1]:.2e}, bound {runs[0][2]:.2e}; bytes up {runs[0][3]}")
    save(result, RESULTS / "secure_sum.json")


if __name__ == "__main__":
    main()

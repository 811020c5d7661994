"""Options of a party that tell others how it is: `--health` and `--metrics`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from splitft.running.plane.plane import Plane

HEALTH = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST:]PORT", help="Answer gRPC's health service here, without TLS; without HOST: 127.0.0.1."
    ),
]
METRICS = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST:]PORT", help="Serve metrics for Prometheus here, over HTTP; without HOST: 127.0.0.1."
    ),
]


def plane_of(party: str, health: str | None, metrics: str | None, certs: Path | None, console: Any) -> Plane:
    """Return the plane of a party, whose doors open as it is entered."""
    from functools import partial

    from splitft.running.network import notice
    from splitft.running.plane.plane import Plane

    return Plane(party, health, metrics, certs, partial(notice, console))

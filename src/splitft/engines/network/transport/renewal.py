"""Renewal: a client's certificate is replaced while its session goes on, over the next connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from splitft.engines.network.transport.credentials import ClientFiles

RENEWAL_SECONDS = 2.0  # between two looks at the files of a client's certificate


async def follow(files: ClientFiles, renewed: asyncio.Event, say: Callable[[str], None]) -> None:
    """Read certificates again where they change, and remind of their ends; without an end.

    renewed: is set as other certificates are there. say: receives lines for a person.
    """
    while True:
        if files.refresh(say):
            renewed.set()
        await asyncio.sleep(RENEWAL_SECONDS)


async def until_renewed(renewed: asyncio.Event | None, carry: Coroutine[Any, Any, None]) -> None:
    """Carry a connection until it ends, or certificates are renewed; None: these never are.

    The session goes on over the next connection, so that a renewal costs the run nothing. Raises as `carry`.
    """
    if renewed is None:
        return await carry
    carrying, waiting = asyncio.ensure_future(carry), asyncio.ensure_future(renewed.wait())
    try:
        await asyncio.wait({carrying, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if carrying.done():
            await carrying
    finally:
        for task in (carrying, waiting):
            task.cancel()
        await asyncio.gather(carrying, waiting, return_exceptions=True)
    return None

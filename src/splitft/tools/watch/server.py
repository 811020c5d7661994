"""The process part of a live page: uvicorn around the application."""

from __future__ import annotations

import socket
from collections.abc import Collection

import uvicorn

from splitft.tools.watch.app import make_app
from splitft.tools.watch.feed import Feed, Runs

MOST_CONNECTIONS = 200
GRACE_SECONDS = 2  # for what was sent last


class PageServer(uvicorn.Server):
    """Serves the page of runs. hosts, token: as of `make_app`."""

    def __init__(self, runs: Runs, hosts: Collection[str], token: str) -> None:
        self._feed = Feed(runs)
        super().__init__(uvicorn.Config(
            make_app(self._feed, hosts, token), loop="asyncio", http="h11", ws="none", lifespan="off",
            access_log=False, log_level="error", server_header=False, proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=GRACE_SECONDS,
        ))  # fmt: skip

    def end(self) -> None:
        """Stop serving. To be called in any thread."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the pages that are open the end first: their answers are endless."""
        await self._feed.close()
        await super().shutdown(sockets)

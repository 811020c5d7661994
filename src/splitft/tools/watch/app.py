"""The web server of a live page: a few files of the page, and the feed. It reads, and never writes."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from splitft.tools.watch.feed import Feed

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

EVENTS = "/events"  # all that a run's folder says leaves the server here, and nowhere else
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/uPlot.min.css": ("uPlot.min.css", "text/css"),
    "/uPlot.iife.min.js": ("uPlot.iife.min.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/feed.js": ("feed.js", "text/javascript"),
    "/pictures.js": ("pictures.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}  # path: file, type
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def make_app(feed: Feed, hosts: Collection[str], token: str) -> App:
    """Return the application. hosts: names by which browsers may call it. token: empty: none is asked for."""
    routes = [Route(path, _page(*entry), methods=["GET"]) for path, entry in PAGE.items()]
    return Door(Starlette(routes=[*routes, Route(EVENTS, Events(feed))]), hosts, token)


def _page(file: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (resources.files("splitft.tools.watch") / "page" / file).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


class Door:
    """Lets in what reads, calls the server by one of its names, and has the token where it asks for data.

    A name of somebody else's is that of a page which had a browser look this machine up (DNS rebinding); an
    address as numbers is looked up nowhere.
    """

    def __init__(self, app: App, hosts: Collection[str], token: str) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = {host.lower() for host in hosts} | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        app: App = self._app
        if (refusal := self._refusal(scope)) is not None:
            app = refusal

        async def send_with_headers(message: Scope) -> None:
            if message["type"] == "http.response.start":
                own = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if scope["method"] != "GET":
            return PlainTextResponse("this server is read alone: GET", 405, {"Allow": "GET"})
        if not self._is_own(headers.get(b"host", b"").decode("latin-1")):
            return PlainTextResponse("this server has another name; see --host", 421)
        if self._token and scope["path"] == EVENTS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._token):
                return PlainTextResponse("the token is missing or wrong", 401, {"WWW-Authenticate": "Bearer"})
        return None

    def _is_own(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.strip("[]").lower()
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Events:
    """The feed as an endless answer, until its reader is gone."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events."""
        if self._feed.is_full:
            busy = PlainTextResponse("too many pages are open", 503, {"Retry-After": "10"})
            await busy(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        watching = self._feed.watch()
        try:
            async for event in watching:
                if event:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await watching.aclose()  # type: ignore[attr-defined]


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""The entrance of a server: gRPC with its TLS, and the bounds on strangers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from splitft.engines.network.transport.counting_front import INNER, CountingFront
from splitft.engines.network.transport.delivery import MAX_FRAME_BYTES
from splitft.engines.network.transport.identity import Certificate, Identity, certificate_of
from splitft.engines.network.transport.room import make_room
from splitft.engines.network.transport.strangers import MOST_STRANGERS, Peer, Strangers, peer_of
from splitft.errors import NetworkError

SERVICE, METHOD = "splitft.Session", "Exchange"
FILES_WITH_CERTS, FILES_WITH_FRONT = 1, 3  # open files of a connection
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a compressed message could unpack to anything
    ("grpc.so_reuseport", 0),  # a second server on the port is told so
    ("grpc.max_concurrent_streams", 1),  # of a connection: a client needs no more
    ("grpc.use_local_subchannel_pool", 1),  # clients in one process have a connection each
    # The most that gRPC takes: by itself it tries a name's next address after 250 ms, and at a round trip of
    # 200 ms a handshake lasts 600.
    ("grpc.happy_eyeballs_connection_attempt_delay_ms", 2000),
)


@dataclass(frozen=True)
class Arrival:
    """One connection whose client says who it is. certificate: None where none is asked for."""

    peer: Peer
    certificate: Certificate | None
    recognise: Callable[[], None]  # notes that it is of a client of the run
    hang_up: Callable[[], None]  # gRPC would wait until the other end has read that it is over


class Entrance:
    """Listens, and hands calls on.

    With client certificates gRPC listens by itself; without, a front counts bytes before it. certs: the
    server's folder; None: no TLS. most: strangers at a time. option: of the command, that names the address.
    Raises NetworkError where a certificate cannot be used.
    """

    def __init__(
        self,
        certs: Path | None,
        client_certs: bool,
        clients: int,
        audit: Callable[[str, str], None],
        *,
        most: int = MOST_STRANGERS,
        option: str = "--listen",
    ) -> None:
        self._audit, self._option = audit, option
        room = make_room(clients, FILES_WITH_CERTS if certs and client_certs else FILES_WITH_FRONT, most // 4)
        self._room, self.notice = room.most, room.notice  # a line for the operator, or empty
        ample = room.most is None or room.most >= clients + most
        self._most_strangers = most if ample else max(8, (room.most or 0) // 4)
        self._front = None if certs and client_certs else CountingFront(room.most, audit)
        self._strangers: Strangers | None = None
        self._identity = Identity(certs, client_certs, audit, self._look) if certs else None
        self._server: Any = None

    async def start(self, address: str, handle: Callable[[Any, Any], Any]) -> int:
        """Start to listen; return the port. handle: receives calls. Raises NetworkError."""
        return await self.start_service(
            address, SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(handle)}
        )

    async def start_service(self, address: str, service: str, methods: Mapping[str, Any]) -> int:
        """Start to listen for calls of a service; return the port. Raises NetworkError.

        methods: {name: gRPC's handler}.
        """
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        host, _, port = address.rpartition(":")
        try:
            inner = f"unix:{self._front.folder / INNER}" if self._front else address
            if self._identity is None:
                bound = self._server.add_insecure_port(inner)
            else:
                bound = self._server.add_secure_port(inner, self._identity.credentials())
            await self._server.start()
            if self._front:
                bound = await self._front.start(host.strip("[]"), int(port))
        except (RuntimeError, OSError) as error:
            found = error if isinstance(error, OSError) else _why_not(host.strip("[]"), int(port))
            reason = "gRPC cannot use it"
            if found is not None:  # asyncio's text has the address again; an unknown name has a code < 0
                known = found.errno is not None and found.errno > 0
                reason = os.strerror(found.errno or 0).lower() if known else str(found.strerror)
            if self._front:
                await self._front.stop()
            raise NetworkError(
                f"cannot listen at {address}: {reason}; choose another with {self._option}"
            ) from None
        self._strangers = Strangers(bound, self._audit, self._most_strangers, self._room)
        return int(bound)

    async def stop(self) -> None:
        """Stop listening, and hang up."""
        if self._strangers is not None:
            self._strangers.close()
        if self._front:
            await self._front.stop()
        await self._server.stop(0)

    def arrival(self, context: Any) -> Arrival:
        """Return the connection of a call. Raises ConnectionError where it has ended."""
        assert self._strangers is not None
        name, strangers = context.peer(), self._strangers
        peer = self._front.peer_of(name) if self._front else peer_of(name)

        def recognise() -> None:
            strangers.recognise(peer)
            if self._front:
                self._front.recognise(name)

        return Arrival(peer, certificate_of(context), recognise, lambda: strangers.end(peer))

    def refusal(self, certificate: Certificate | None) -> str | None:
        """Return why a certificate does not count, by the files as they are now."""
        return self._identity.refusal(certificate) if self._identity and certificate else None

    def name_of(self, certificate: Certificate | None, wanted: str) -> str:
        """Return the client that a certificate is of; empty without one. wanted: as the client says."""
        return self._identity.name_of(certificate, wanted) if self._identity and certificate else ""

    def remind(self, arrivals: Mapping[str, Arrival], say: Callable[[str], None]) -> None:
        """Say each day which certificates end soon. arrivals: of the clients that are connected."""
        shown = {name: one.certificate for name, one in arrivals.items() if one.certificate is not None}
        if self._identity is not None:
            self._identity.remind(shown, say)

    def _look(self) -> None:
        if self._strangers is not None:
            self._strangers.look_now()


def _why_not(host: str, port: int) -> OSError | None:
    """Return why a port cannot be had: gRPC does not say it."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            return None
    except OSError as error:
        return error

"""gRPC's own health service (grpc.health.v1), at a port of its own and without TLS.

The clients' port does not answer it: with certificates gRPC ends whoever shows none at the handshake, a
connection that does not say who it is counts as a stranger there and is logged, and the probes of Kubernetes
speak no TLS. At this port a stranger learns one word. It is held to the bounds of strangers, of which there
may be few: an idle connection ends after 10 seconds, and none takes the place of a client.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from splitft.common.waits import result_of
from splitft.engines.network.transport.entrance import SERVICE, Entrance
from splitft.errors import JobError

HEALTH = "grpc.health.v1.Health"
NAMES = ("", SERVICE)  # of services whose health is known: the process, and what clients call
MOST_ASKING = 16  # connections at a time
WATCH_SECONDS = 0.2  # between two looks for whoever watches


class HealthDoor:
    """Answers SERVING while clients are taken, else NOT_SERVING.

    address: HOST:PORT; port 0 takes a free one. serving: whether clients are taken now; called in any thread.
    Raises JobError where the library is not there, NetworkError where the address cannot be had.
    """

    def __init__(self, address: str, serving: Callable[[], bool]) -> None:
        try:
            from grpc_health.v1 import health_pb2
        except ImportError:
            raise JobError("--health: the library is not there: pip install 'splitft[health]'") from None
        self._words: Any = health_pb2
        self._serving = serving
        self._entrance = Entrance(None, False, 0, lambda *refused: None, most=MOST_ASKING, option="--health")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="splitft-health", daemon=True)
        self._thread.start()
        starting = self._entrance.start_service(address, HEALTH, self._methods())
        try:
            self.port = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """Stop listening."""
        if self._thread.is_alive():
            result_of(asyncio.run_coroutine_threadsafe(self._entrance.stop(), self._loop))
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _methods(self) -> dict[str, Any]:
        read = self._words.HealthCheckRequest.FromString
        write = self._words.HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, read, write),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, read, write),
        }

    async def _check(self, request: Any, context: Any) -> Any:
        if request.service not in NAMES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return self._answer(request.service)

    async def _watch(self, request: Any, _: Any) -> AsyncIterator[Any]:
        told = None
        while True:
            answer = self._answer(request.service)
            if answer != told:
                yield answer
            told = answer
            await asyncio.sleep(WATCH_SECONDS)

    def _answer(self, service: str) -> Any:
        kinds = self._words.HealthCheckResponse
        if service not in NAMES:
            return kinds(status=kinds.SERVICE_UNKNOWN)
        return kinds(status=kinds.SERVING if self._serving() else kinds.NOT_SERVING)


def ask_health(address: str, seconds: float) -> str:
    """Return the word of the health service at HOST:PORT: SERVING or NOT_SERVING; why not, where none comes.

    seconds: the longest wait. Raises JobError where the library is not there.
    """
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    except ImportError:
        raise JobError("the library is not there: pip install 'splitft[health]'") from None
    with grpc.insecure_channel(address) as channel:
        try:
            asked = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=seconds)
        except grpc.RpcError as error:
            return f"no answer ({error.code().name})"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

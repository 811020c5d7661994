"""Open files of a server: connections beyond them are refused, and no log floods."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from splitft.engines.network.transport.counting_front import CountingFront
from splitft.engines.network.transport.room import quiet_lack_of_files
from splitft.engines.network.transport.strangers import FULL


def test_connections_beyond_the_room_are_refused_until_others_leave() -> None:
    told: list[tuple[str, str]] = []

    async def closed(reader: asyncio.StreamReader) -> bool:
        try:
            return await asyncio.wait_for(reader.read(1), 0.5) == b""
        except ConnectionResetError:
            return True
        except asyncio.TimeoutError:
            return False

    async def knock() -> list[bool]:
        front = CountingFront(2, lambda address, reason: told.append((address, reason)))
        port = await front.start("127.0.0.1", 0)
        made: list[Any] = []
        found = []
        for _ in range(4):
            made.append(await asyncio.open_connection("127.0.0.1", port))
            found.append(await closed(made[-1][0]))
        made[0][1].close()
        await asyncio.sleep(0.1)
        made.append(await asyncio.open_connection("127.0.0.1", port))
        found.append(await closed(made[-1][0]))
        for _, writer in made:
            writer.close()
        await front.stop()
        return found

    assert asyncio.run(knock()) == [False, False, True, True, False]
    assert told == [("127.0.0.1", FULL)] * 2


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_a_lack_of_files_is_one_line_and_other_errors_stay(code: int, caplog: Any) -> None:
    said: list[str] = []
    loop = asyncio.new_event_loop()
    try:
        quiet_lack_of_files(loop, said.append)
        for _ in range(100):
            context = {"message": "socket.accept() out of system resource", "exception": OSError(code, "")}
            loop.call_exception_handler(context)
        assert len(said) == 1 and "ulimit -n" in said[0] and not caplog.records
        loop.call_exception_handler({"message": "another", "exception": OSError(errno.EPIPE, "broken")})
        assert len(said) == 1 and "another" in caplog.text
    finally:
        loop.close()

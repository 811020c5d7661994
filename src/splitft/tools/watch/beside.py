"""The live page of a run that this process is about to make, served by a process of its own.

It costs the run no time, and nothing that is sent to the page's port reaches the run's process.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from splitft.common.notebook import make_console
from splitft.tools.watch.address import PageAddress
from splitft.tools.watch.command import check_extra

SECONDS_TO_STOP = 10.0


@contextmanager
def live_page(
    folder: Path, listen: str | None = None, *, hosts: Collection[str] = (), console: Console | None = None
) -> Iterator[PageAddress]:
    """Serve the page of a run's folder while the block runs, and print its address.

    listen, hosts: as of `PageAddress`. Raises JobError, NetworkError.
    """
    console = console or make_console()
    check_extra()  # here, and not in a process whose words nobody reads
    address = PageAddress(listen, hosts=hosts)
    handle = address.socket.fileno()
    process = subprocess.Popen(
        [sys.executable, "-m", "splitft.tools.watch.beside", str(handle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=(handle,),
        start_new_session=True,  # Ctrl-C is for the run, whose last state the page shows
    )
    address.socket.close()
    given = {"folder": str(folder.absolute()), "hosts": address.hosts, "token": address.token}
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # it has failed, and said why
            process.stdin.write(json.dumps(given).encode() + b"\n")
            process.stdin.flush()
        for line in address.told():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        yield address
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()  # its end stops the page
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """Serve at a socket that is handed down, what a line of standard input says, until that has its end."""
    from splitft.tools.watch.feed import Runs
    from splitft.tools.watch.server import PageServer

    given = json.loads(sys.stdin.buffer.readline())
    runs = Runs([Path(given["folder"])], fixed=True)
    server = PageServer(runs, given["hosts"], given["token"])

    def wait() -> None:
        sys.stdin.buffer.read()
        server.end()

    threading.Thread(target=wait, daemon=True).start()
    server.run([socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()

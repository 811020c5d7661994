"""`splitft watch RUN…`: serves the live page of runs until an interrupt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from splitft.common.notebook import make_console
from splitft.common.text import error_line
from splitft.errors import JobError
from splitft.tools.watch.address import PageAddress
from splitft.tools.watch.folders import check_folders

EXTRA = "pip install 'splitft[live]'"


def watch_command(
    folders: Sequence[Path],
    listen: str | None = None,
    *,
    ask_token: bool = False,
    hosts: Collection[str] = (),
    console: Console | None = None,
) -> None:
    """Serve the live page of runs, and print its address, until an interrupt.

    folders: of runs, or above them. listen, ask_token, hosts: as of `PageAddress`. Raises JobError,
    NetworkError.
    """
    console = console or make_console()
    check_extra()
    check_folders(folders)
    address = PageAddress(listen, ask_token=ask_token, hosts=hosts)
    from splitft.tools.watch.feed import Runs
    from splitft.tools.watch.server import PageServer

    for line in [*address.told(), "Ctrl-C ends it."]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    with suppress(KeyboardInterrupt):
        PageServer(Runs(folders), address.hosts, address.token).run([address.socket])


def check_extra() -> None:
    """Raise JobError where the libraries of the live page are not there."""
    try:
        import splitft.tools.watch.server  # noqa: F401
    except ImportError as error:
        raise JobError(f"a live page needs starlette and uvicorn ({error_line(error)}): {EXTRA}") from None

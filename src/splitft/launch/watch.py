"""`splitft watch`: its arguments; and the live page of a run that this process makes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

LIVE = Annotated[bool, typer.Option("--live", help="Show the run in a browser while it trains.")]
LIVE_LISTEN = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Serve that page here; default: 127.0.0.1:8700. Elsewhere it has a token."
    ),
]


def watch(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or above them.")],
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT to serve at; default: 127.0.0.1:8700, or a free port.")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token on this machine, too; elsewhere it is asked for.")
    ] = False,
    host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another name of this machine, for browsers.")
    ] = None,
) -> None:
    """Show runs in a browser while they train, or afterwards. Ctrl-C ends it."""
    from splitft.tools.watch.command import watch_command

    watch_command(runs, listen, ask_token=token, hosts=host or ())


def page_of(job: Any, live: bool, listen: str | None) -> AbstractContextManager[Any]:
    """Return the live page of a job's run, where one is asked for."""
    if not live and listen is None:
        return nullcontext()
    from splitft.tools.watch.beside import live_page

    return live_page(Path(job.output_dir).expanduser(), listen)

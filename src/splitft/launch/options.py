"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from splitft.common.plugins import load_plugins

OVERRIDES = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Set keys of the job: rounds=2 partition.alpha=0.1 'cuts=[1,2,3]'"
    ),
]
JOB = Annotated[str, typer.Argument(help="A job file, or the name of a recipe.")]
RESUME = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in output_dir from its last checkpoint.")
]
ADMIT = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="With --resume: let an expelled client in again.")
]
TOKEN_FILE = Annotated[Path | None, typer.Option(help="File with a secret that server and clients share.")]
TOKENS = Annotated[
    Path | None,
    typer.Option(help="File with the hash of each client's own token (splitft certs token)."),
]
CA = Annotated[
    Path | None,
    typer.Option(
        "--ca", help="File with the authority of the server's certificate, in place of ca.pem in --certs."
    ),
]
OWN_TOKEN = Annotated[
    Path | None,
    typer.Option("--token", metavar="FILE", help="File with this client's token, or a secret of all."),
]
SECRET_FILE = Annotated[
    Path | None, typer.Option("--token-file", hidden=True)
]  # its name before there were tokens
CERTS = Annotated[Path | None, typer.Option(help="Folder of this party's certificates (splitft certs).")]
POLICY = Annotated[
    Path | None,
    typer.Option(
        help="This site's policy (splitft new site); default: site.yaml in --folder, if it is there."
    ),
]
ACCEPT = Annotated[
    str,
    typer.Option(
        metavar="first|DIGEST",
        help="Agree to the first job that comes, or to the job with this digest; else it asks on a terminal.",
    ),
]
END = Annotated[
    bool, typer.Option("--end", help="Have Ctrl-C end the run for all clients, and not stop for a while.")
]
LOG_FORMAT = Annotated[
    Literal["text", "json"] | None,
    typer.Option(help="Write a log in place of the display; the default where there is no terminal: text."),
]
LOG_FILE = Annotated[Path | None, typer.Option(help="Also write the log here; the file rotates at 10 MB.")]
PLUGIN = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        callback=lambda names: load_plugins(names or ()),
        help="Import a module (or a .py file) that registers pieces of your own; may be repeated.",
    ),
]
OPEN = Annotated[
    bool, typer.Option("--insecure", help="Use a network without TLS. Everyone on it may read along.")
]

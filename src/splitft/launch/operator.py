"""`splitft operator`: looks after a run while its server is at work, without a restart."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from splitft.common.text import plain
from splitft.errors import JobError, NetworkError
from splitft.launch.width import FittingApp

RUN = Annotated[Path, typer.Argument(metavar="RUN", help="The server's output_dir, or operator.sock in it.")]
NAME = Annotated[str, typer.Argument(help="A client of the run.")]

operator_app = FittingApp(
    help="Look after a run while its server is at work: who takes part, and who is to.", no_args_is_help=True
)


@operator_app.command()
def status(
    run: RUN, as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False
) -> None:
    """Show each client: its standing, since when, its steps, rates and bytes."""
    answer = _ask(run, do="status")
    if as_json:
        typer.echo(json.dumps(answer, indent=1, ensure_ascii=False))
        return
    for line in status_lines(answer):
        typer.echo(line)


@operator_app.command()
def drop(run: RUN, name: NAME) -> None:
    """Have the run go on without a client: from the next round on, at once where it is away."""
    typer.echo(_ask(run, do="drop", client=name)["told"])


@operator_app.command()
def admit(run: RUN, name: NAME) -> None:
    """Let a client in again that was dropped or expelled."""
    typer.echo(_ask(run, do="admit", client=name)["told"])


@operator_app.command()
def pause(run: RUN) -> None:
    """Have the run wait before its next round."""
    typer.echo(_ask(run, do="pause")["told"])


@operator_app.command()
def resume(run: RUN) -> None:
    """Have a paused run go on."""
    typer.echo(_ask(run, do="resume")["told"])


@operator_app.command()
def deadline(
    run: RUN,
    seconds: Annotated[
        float, typer.Argument(min=0, help="Of a phase, after which clients are late; 0: none.")
    ],
) -> None:
    """Set the seconds after which clients are late (network.round_seconds), from the next phase on."""
    typer.echo(_ask(run, do="deadline", seconds=seconds or None)["told"])


@operator_app.command()
def health(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Of --health; or the port alone.")],
    seconds: Annotated[float, typer.Option(min=0.1, help="The longest wait for an answer.")] = 5.0,
) -> None:
    """Ask the health service of a server or an aggregator; anything but SERVING ends with exit code 6."""
    from splitft.engines.network.transport.health import ask_health

    answer = ask_health(address if ":" in address else f"127.0.0.1:{address}", seconds)
    typer.echo(answer)
    if answer != "SERVING":
        raise typer.Exit(NetworkError.exit_code)


def status_lines(answer: dict[str, Any]) -> list[str]:
    """Return the status of a run as lines: the run, then a table of its clients."""
    run, now = answer.get("run", {}), time.time()
    sums = {way: sum(kinds.values()) / 1e6 for way, kinds in run.get("bytes", {}).items()}
    head = [
        f"round {run.get('round', answer['round'])} of {run.get('rounds', '?')}",
        "paused" if answer["paused"] else str(run.get("phase", "starting")),
        *(f"{way} {size:.1f} MB" for way, size in sums.items()),
        *([f"{run['seconds_left']:.0f} s left"] if run.get("seconds_left") else []),
    ]
    headings = ("client", "standing", "for", "step", "loss", "tokens/s", "MB up", "MB down", "reason")
    rows = [headings]
    for name, client in answer["clients"].items():
        seen = run.get("clients", {}).get(name, {})
        step = "–" if seen.get("step") is None else f"{seen['round']}.{seen['step'] + 1}"
        rows.append((
            name, client["standing"], f"{max(0.0, now - client['since']):.0f} s", step,
            _figure(seen.get("loss"), 3), _figure(seen.get("tokens_per_second"), 1),
            _figure(seen.get("bytes_up", 0) / 1e6, 1), _figure(seen.get("bytes_down", 0) / 1e6, 1),
            plain(client["reason"], 300),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ["  ".join(head), *table]


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _ask(run: Path, **request: Any) -> dict[str, Any]:
    """Return the answer of a run's server. Raises NetworkError, and JobError where it refuses."""
    from splitft.running.operator_socket import ask_server

    answer = ask_server(run.expanduser(), request)
    if "error" in answer:
        raise JobError(str(answer["error"]))
    return answer

"""The command line. It parses arguments and maps errors to exit codes; every command's work lives elsewhere.

Nothing heavy is imported here: each command imports what it calls, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from splitft.common.draining import DRAINED, Draining, drain_at_interrupts, draining
from splitft.common.startup import import_libraries
from splitft.common.text import plain
from splitft.errors import JobError, ModelError, SplitFTError
from splitft.launch.aggregator import aggregator
from splitft.launch.arguments import load, names_job, parse_cuts, read_token
from splitft.launch.audit import READABLE, audit, meter_of
from splitft.launch.certs import certs_app
from splitft.launch.client import client
from splitft.launch.demo import demo
from splitft.launch.evaluate import LM_EVAL_SPELLING, evaluate
from splitft.launch.new import new
from splitft.launch.operator import operator_app
from splitft.launch.options import (
    ADMIT,
    CERTS,
    END,
    JOB,
    LOG_FILE,
    LOG_FORMAT,
    OPEN,
    OVERRIDES,
    PLUGIN,
    RESUME,
    TOKEN_FILE,
    TOKENS,
)
from splitft.launch.plane import HEALTH, METRICS, plane_of
from splitft.launch.report import report
from splitft.launch.watch import LIVE, LIVE_LISTEN, page_of, watch
from splitft.launch.width import FittingApp

EXIT_CODES = {
    0: "done",
    1: "an unexpected error (a bug: please report it)",
    2: "the command line or the job file is wrong",
    3: "data cannot be read, or not dealt as the job asks",
    4: "the model is missing, or cannot be split, adapted or loaded",
    5: "output cannot be written, or would overwrite something",
    6: "the network, a certificate or another party stops the run",
    7: "training diverged: a loss or an adapter is not finite; the last finite state is kept",
    8: "a client's owner has not agreed to the server's job, or the site's policy refuses it",
    9: "the run is complete, but not with all clients that were invited",
    10: "an audit read more than its limit allows",
    DRAINED: "a party of a network run was stopped, by SIGTERM or a server's Ctrl-C: start it again",
    130: "interrupted (Ctrl-C)",
}
INCOMPLETE = 9
FOR_OTHERS = ("new", "report", "export")  # commands that write what is made to be passed on
PARTIES = ("server", "client", "aggregator")
_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."


class _Commands(TyperGroup):
    """Tells expected errors in one message and exits with the code of their class."""

    def invoke(self, ctx: Any) -> Any:  # click's Context, which newer typer versions carry inside themselves
        try:
            return super().invoke(ctx)
        except SplitFTError as error:
            _tell(str(error))
            raise typer.Exit(error.exit_code) from None
        except Draining:
            _tell("stopped: started again (a server with --resume), it goes on from its last state")
            raise typer.Exit(DRAINED) from None
        except KeyboardInterrupt:
            _tell("interrupted")
            raise typer.Exit(130) from None


app = FittingApp(
    cls=_Commands,
    help="Fine-tune one language model together: clients keep their text, a server does the heavy part.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"splitft {version('splitft')}")
        raise typer.Exit


@app.callback()
def _top(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    if ctx.invoked_subcommand in PARTIES:
        ctx.with_resource(draining())
    if ctx.invoked_subcommand not in FOR_OTHERS:
        os.umask(0o077)  # adapters, checkpoints, what others sent: for their owner alone


app.command()(demo)
app.command()(new)


@app.command()
def schema() -> None:
    """Print the JSON schema of a job file, for editors and scripts."""
    import json

    from splitft.job import job_schema

    typer.echo(json.dumps(job_schema(), indent=2, ensure_ascii=False))


@app.command()
def run(
    job: JOB,
    overrides: OVERRIDES = None,
    resume: RESUME = False,
    live: LIVE = False,
    live_listen: LIVE_LISTEN = None,
    readable: READABLE = None,
    plugin: PLUGIN = None,
) -> None:
    """Run a job: train, evaluate, write the adapter and the history into output_dir."""
    loaded = load(job, overrides)
    from splitft.running.runner import run

    with page_of(loaded, live, live_listen):
        run(loaded, resume=resume, meter=meter_of(readable))


@app.command()
def server(
    job: JOB,
    overrides: OVERRIDES = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT to listen at; port 0: a free one.")
    ] = "127.0.0.1:50051",
    certs: CERTS = None,
    token_file: TOKEN_FILE = None,
    tokens: TOKENS = None,
    insecure: OPEN = False,
    resume: RESUME = False,
    admit: ADMIT = None,
    live: LIVE = False,
    live_listen: LIVE_LISTEN = None,
    plugin: PLUGIN = None,
    log_format: LOG_FORMAT = None,
    log_file: LOG_FILE = None,
    health: HEALTH = None,
    metrics: METRICS = None,
    end: END = False,
) -> None:
    """Run a job as its server; the clients dial in (splitft client)."""
    if not end:
        drain_at_interrupts()
    loaded = load(job, overrides)
    from splitft.running.logged_console import log_console
    from splitft.running.serve import serve

    if admit and not resume:
        raise JobError("--admit lets clients into a run that goes on: give --resume, too")
    options: dict[str, Any] = {"token": read_token(token_file), "token_hashes": tokens, "admit": admit or []}
    with page_of(loaded, live, live_listen), log_console(log_format, log_file) as console:
        options |= {"insecure": insecure, "resume": resume, "console": console}
        with plane_of("server", health, metrics, certs, console) as plane:
            done = serve(loaded, listen, certs=certs, plane=plane, **options)
    if done.summary.get("missing"):
        raise typer.Exit(INCOMPLETE)


app.command()(client)


app.command()(aggregator)
app.add_typer(certs_app, name="certs", cls=_Commands)
app.add_typer(operator_app, name="operator", cls=_Commands)


@app.command()
def check(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|JOB", help="A model folder, a hub id, or builtin:NAME; or a job file or a recipe."
        ),
    ] = None,
    overrides: OVERRIDES = None,
    cuts: Annotated[str | None, typer.Option(help="Cuts to try, e.g. 1,2,8; default: every cut.")] = None,
    all_architectures: Annotated[
        bool,
        typer.Option("--all-architectures", help="Try every causal and vision-language type."),
    ] = False,
    plugin: PLUGIN = None,
) -> None:
    """Prove that a model, or a job with its own adapters, computes split what it computes whole."""
    if (model is None) != all_architectures:
        raise JobError("give either a MODEL or --all-architectures")
    if all_architectures and cuts is not None:
        raise JobError("--cuts goes with a MODEL; --all-architectures tries every cut")
    wanted = None if cuts is None else parse_cuts(cuts)
    job: Any = load(str(model), overrides) if names_job(model, overrides, cuts) else None
    import_libraries()
    from splitft.launch.check import check_all_command, check_command, tell_job

    if model is None:
        raise typer.Exit(check_all_command())
    if job is None:
        raise typer.Exit(0 if check_command(model, wanted).ok else ModelError.exit_code)
    from splitft.running.check import check_job

    tell_job(check_job(job))


@app.command()
def plan(
    job: JOB,
    overrides: OVERRIDES = None,
    codecs: Annotated[
        bool, typer.Option("--codecs", help="Load the weights, and try every codec on one batch.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for plan.json and plan.png.")] = None,
    plugin: PLUGIN = None,
) -> None:
    """Predict memory, bytes and time of a job, and the cuts of every policy, without training."""
    loaded = load(job, overrides)
    from splitft.tools.plan.command import plan_command

    plan_command(loaded, codecs=codecs, out=out)


@app.command()
def compare(
    job: JOB,
    overrides: OVERRIDES = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, cut policies or algorithms: same_split,splitft,makespan or fedavg,fedadam,fedprox"
        ),
    ] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="A key and its values: 'lora_r_cut=[4,8,16]'; may be repeated.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each combination, with seeds one after another.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder; default: runs/compare-JOB.")] = None,
    parallel: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    plugin: PLUGIN = None,
) -> None:
    """Run a job with several methods, values and seeds; write a table and a report. Resumable."""
    from splitft.tools.compare.command import compare_command

    made = compare_command(
        job, overrides or (), methods=methods, vary=vary or (), seeds=seeds, out=out, parallel=parallel
    )
    raise typer.Exit(made.exit_code)


app.command()(report)
app.command()(audit)
app.command()(watch)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The output_dir of a run.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to write; default: inside RUN.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write a whole model, the adapter merged into it.")
    ] = False,
) -> None:
    """Write a run's adapter as a stock PEFT folder, or merged into its model."""
    from splitft.running.export import export_command

    export_command(run_dir, out, merge)


app.command(context_settings=LM_EVAL_SPELLING)(evaluate)


def main() -> None:
    """Console entry point: expected errors are told in one message, unexpected ones with their traceback."""
    try:
        app()
    except KeyboardInterrupt:  # outside a command
        _tell("interrupted")
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        _tell(
            "this is a bug in SplitFT; please report it with the traceback above, the command, the job file "
            "and the versions of splitft, torch and transformers"
        )
        sys.exit(1)


def _tell(message: str) -> None:
    color = False if os.environ.get("NO_COLOR") else None  # None: colour on a terminal only
    shown = "\n".join(plain(line, len(line)) for line in message.splitlines())  # it may quote another party
    typer.echo(typer.style("error:", fg=typer.colors.RED) + f" {shown}", err=True, color=color)

"""Two versions of the project, before and after a change: their folders, and processes run with each."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LAST_LINES = 12  # of the log of a process that failed

# A file under src/splitft, and the module of the command line where the file exists. The first one counts.
ENTRIES = (
    ("__main__.py", "splitft"),
    ("launch/__main__.py", "splitft.launch"),
    ("cli.py", "splitft.cli"),
)

# Keys of a job under the names that other versions give them: {our name: other name}.
OTHER_NAMES: dict[str, str] = {}
# Values of a job that other versions write otherwise: {key: {our value: other value}}.
OTHER_VALUES: dict[str, dict[Any, Any]] = {"micro_batches": {1: "off"}, "server_batch_tokens": {0: "off"}}

_TYPES: dict[str, type | tuple[type, ...]] = {
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "string": str,
    "array": list,
    "object": dict,
    "null": type(None),
}


class CommandError(Exception):
    """A process that ended otherwise than expected, with the last lines of its log."""


@dataclass(frozen=True)
class Checkout:
    """A version of the project.

    side: "before" or "after".
    name: The revision or folder, as the command line gave it.
    folder: The root of the version's files.
    scratch: A folder for all files that the version's processes write.
    """

    side: str
    name: str
    folder: Path
    scratch: Path

    def command(self, *arguments: str) -> list[str]:
        """Return the command that starts `splitft ARGUMENTS` of this version."""
        package = self.folder / "src" / "splitft"
        for file, module in ENTRIES:
            if (package / file).is_file():
                return [sys.executable, "-m", module, *arguments]
        raise SystemExit(f"{self.name}: no command line among {', '.join(file for file, _ in ENTRIES)}")

    def environment(self) -> dict[str, str]:
        """Return the environment of this version's processes: one thread, no hub, a cache of their own."""
        given = {key: value for key, value in os.environ.items() if not key.startswith("SPLITFT_")}
        return given | {
            "PYTHONPATH": str(self.folder / "src"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
            "COLUMNS": "110",
            "SPLITFT_CACHE": str(self.scratch / "cache"),
        }


@dataclass(frozen=True)
class Spent:
    """Seconds that processes took.

    seconds: By the clock on the wall.
    cpu_seconds: User and system seconds of all processes and their children.
    """

    seconds: float
    cpu_seconds: float


@contextmanager
def open_checkouts(
    before: str, after: str | None, keep: Path | None = None
) -> Iterator[tuple[Checkout, Checkout, Path]]:
    """Give both versions, and a folder for files that they share; remove all of it at the end.

    before, after: A git revision, or a folder with the project in it; without `after`, the present working
    tree. keep: A folder, new or empty, for all files but checkouts, which then stays.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that worktrees are removed then, too
    with ExitStack() as stack:
        if keep is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splitft-")))
        else:
            scratch = keep.expanduser().resolve()
            scratch.mkdir(parents=True, exist_ok=True)
            if any(scratch.iterdir()):
                raise SystemExit(f"{scratch} is not empty: name another folder")
        shared = scratch / "shared"
        shared.mkdir()
        sides = [
            stack.enter_context(_open_checkout("before", before, scratch)),
            stack.enter_context(_open_checkout("after", str(ROOT) if after is None else after, scratch)),
        ]
        yield sides[0], sides[1], shared


@contextmanager
def _open_checkout(side: str, name: str, scratch: Path) -> Iterator[Checkout]:
    own = scratch / side
    own.mkdir()
    folder = Path(name).expanduser().resolve()
    if (folder / "src" / "splitft").is_dir():
        yield _checked(Checkout(side, name, folder, own))
        return
    tree = own / "checkout"
    git = ["git", "-C", str(ROOT), "worktree"]
    added = subprocess.run([*git, "add", "--detach", str(tree), name], capture_output=True, text=True)
    if added.returncode:
        raise SystemExit(f"{name}: neither a folder with src/splitft nor a revision: {added.stderr.strip()}")
    try:
        yield _checked(Checkout(side, name, tree, own))
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], capture_output=True)


def _checked(checkout: Checkout) -> Checkout:
    """Return a checkout whose processes surely import its own package and not an installed one."""
    show = [sys.executable, "-c", "import splitft; print(splitft.__file__)"]
    done = subprocess.run(
        show, cwd=checkout.scratch, env=checkout.environment(), capture_output=True, text=True
    )
    found = Path(done.stdout.strip()).resolve()
    if done.returncode or not found.is_relative_to(checkout.folder.resolve()):
        raise SystemExit(f"{checkout.name}: its processes import {found}\n{done.stderr}")
    return checkout


def run_commands(
    checkout: Checkout,
    commands: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    failpoint: str = "",
    seconds: float = 3600.0,
) -> Spent:
    """Run `splitft` with some arguments, all {name of the log: arguments} at once, to the end of all.

    folder: The working directory, and the logs' place. failpoint: name:count:action of the failpoint at which
    the processes are to be killed. Raises CommandError where one ends otherwise, or not after some seconds.
    """
    environment = checkout.environment() | ({"SPLITFT_FAILPOINTS": failpoint} if failpoint else {})
    wanted = -signal.SIGKILL if failpoint else 0
    began, cpu_before = time.monotonic(), _children_cpu()
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, arguments in commands.items():
            with (folder / f"{name}.log").open("ab") as log:
                running[name] = subprocess.Popen(
                    checkout.command(*arguments),
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        while any(process.poll() is None for process in running.values()):
            _check_codes(running, wanted, folder)
            if time.monotonic() - began > seconds:
                raise CommandError(f"not done after {seconds:g} seconds\n" + _last_lines(running, folder))
            time.sleep(0.05)
        _check_codes(running, wanted, folder)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return Spent(time.monotonic() - began, _children_cpu() - cpu_before)


def _children_cpu() -> float:
    """Return user and system seconds of all child processes that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _check_codes(running: Mapping[str, subprocess.Popen[bytes]], wanted: int, folder: Path) -> None:
    for name, process in running.items():
        if process.poll() not in (None, wanted):
            said = _last_lines([name], folder)
            raise CommandError(f"{name} ended with {process.returncode} instead of {wanted}\n{said}")


def _last_lines(names: Sequence[str] | Mapping[str, object], folder: Path) -> str:
    lines: list[str] = []
    for name in names:
        said = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        lines += [f"{name}: {line}" for line in said if line.strip()][-LAST_LINES:]
    return "\n".join(lines)


def free_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@lru_cache(maxsize=4)
def job_keys(checkout: Checkout) -> dict[str, Any]:
    """Return the JSON schema of every key of a job, from this version's `splitft schema`."""
    command = checkout.command("schema")
    done = subprocess.run(
        command, cwd=checkout.scratch, env=checkout.environment(), capture_output=True, text=True
    )
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-LAST_LINES:])
        raise CommandError(f"`splitft schema` ended with {done.returncode}\n{last}")
    keys: dict[str, Any] = json.loads(done.stdout)["properties"]
    return keys


def settings_for(checkout: Checkout, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's settings as this version writes them.

    A key that the version does not know is renamed by OTHER_NAMES, else left out, with a note. A value that
    the version's schema does not take is replaced by OTHER_VALUES, else left as given, for the version to
    refuse.
    """
    keys, found = job_keys(checkout), {}
    for key, value in settings.items():
        other = key if key in keys else OTHER_NAMES.get(key, key)
        if other not in keys:
            _note_unknown(checkout, key)
            continue
        other_values = {} if _takes(keys[other], value) else OTHER_VALUES.get(key, {})
        found[other] = other_values.get(value, value) if other_values else value
    return found


@lru_cache(maxsize=99)
def _note_unknown(checkout: Checkout, key: str) -> None:
    print(f"{checkout.side} knows no key {key}: left out there", flush=True)


def _takes(schema: Mapping[str, Any], value: object) -> bool:
    """Return whether a key's JSON schema takes a value, as far as types, bounds and constants go."""
    if "anyOf" in schema:
        return any(_takes(choice, value) for choice in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kind = schema.get("type")
    if kind is None:  # a section of its own
        return True
    fits = isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "boolean")
    if fits and isinstance(value, int | float):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return fits

"""`splitft` in processes of its own, forked from one that has imported everything and done nothing.

A start takes no seconds, and what is killed is a whole process.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from splitft.common.failpoints import VARIABLE

# The fork server does not look elsewhere for what it is to import, and says nothing where it is not found.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
_NEW_PROCESSES, _NEW_MOUNTS, _PRIVATE, _PARENT_DEATH = 0x20000000, 0x20000, 0x44000, 1  # of Linux
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["preload"])


def start_command(
    arguments: Sequence[str | Path],
    log: Path,
    *,
    points: str = "",
    errors: Path | None = None,
    cwd: Path | None = None,
    contained: Path | None = None,
) -> ForkServerProcess:
    """Start `splitft ARGUMENTS`; its output is added to the log.

    points: where it is to fail. errors: file that its standard error is added to, if not the log. contained:
    file that is told its process; it is the first of a process namespace, as in a container, and the process
    that is returned waits for it and ends as it does.
    """
    words = [str(argument) for argument in arguments]
    process = FORKS.Process(
        target=_be_command, args=(words, points, str(log), str(errors or log), cwd, contained)
    )
    process.start()
    return process


def run_command(
    *arguments: str | Path, cwd: Path | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `splitft ARGUMENTS` to its end; return its exit code and its output."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "stdout"), Path(folder, "stderr")
        process = start_command(arguments, output, errors=errors, cwd=cwd)
        process.join(timeout)
        process.kill()
        process.join()
        told = (path.read_text(encoding="utf-8") for path in (output, errors))
        return subprocess.CompletedProcess(arguments, process.exitcode or 0, *told)


def has_namespaces() -> bool:
    """Whether this user may make a process namespace."""
    made = shutil.which("unshare") and subprocess.run(
        ["unshare", "-pf", "--mount-proc", "true"], capture_output=True
    )
    return bool(made) and made.returncode == 0


def _be_contained(told: Path) -> None:
    """Go on as the first process of a namespace; the one that was here waits for it, and ends as it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_NEW_PROCESSES | _NEW_MOUNTS))
    if inner := os.fork():
        told.write_text(str(inner))
        _, status = os.waitpid(inner, 0)
        os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
    _check(libc.prctl(_PARENT_DEATH, signal.SIGKILL, 0, 0, 0))
    _check(libc.mount(None, b"/", None, _PRIVATE, None))
    _check(libc.mount(b"proc", b"/proc", b"proc", 0, None))
    assert os.getpid() == 1


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "a process namespace cannot be made")


def _be_command(
    arguments: Sequence[str], points: str, log: str, errors: str, cwd: Path | None, contained: Path | None
) -> None:
    import torch

    from splitft.launch.cli import main

    if contained is not None:
        _be_contained(contained)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in commands.start_process
    torch.set_num_threads(1)
    os.environ |= {VARIABLE: points, "NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"}
    for stream, path in ((1, log), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(cwd or ".")
    sys.argv = ["splitft", *arguments]
    sys.exit(main())

"""Processes of a comparison: runs started, watched and stopped, `parallel` at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from splitft.common.checkpoint import FOLDER, remove_checkpoints
from splitft.common.plugins import plugin_options
from splitft.tools.compare.progress import CompareProgress
from splitft.tools.compare.store import Store

SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_TO_STOP = 60.0  # a local step and the writing of an adapter, on a slow machine
BUG = "this is a bug"  # how the command line tells an unexpected error
_LAST_LINES = 6


def make_runs(
    names: Sequence[str], store: Store, parallel: int, progress: CompareProgress, lock: int
) -> dict[str, int]:
    """Make prepared runs, each in a process of its own, `parallel` at a time; return {name: exit code}.

    One that fails does not stop the others. An interrupt stops all, is waited for, and is raised again.
    lock: a file descriptor that the processes inherit.
    """
    waiting, codes = list(names), dict[str, int]()
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    environment = {**thread_settings(parallel, usable_cores()), **os.environ, "PYTHONIOENCODING": "utf-8"}
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                name = waiting.pop(0)
                process = _start(store.job(name), store.log(name), environment, lock)
                running[name] = (process, time.monotonic())
                progress.on_start(name)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for name, (process, started) in list(running.items()):
                if (code := process.poll()) is not None:
                    _close(process)
                    del running[name]
                    codes[name] = code
                    if code == 0:  # a comparison makes runs anew and extends none
                        remove_checkpoints(store.run(name) / FOLDER)
                    progress.on_end(name, code, time.monotonic() - started)
            progress.on_look(list(running))
    finally:
        _stop([process for process, _ in running.values()])
    return codes


def thread_settings(parallel: int, cores: int) -> dict[str, str]:
    """Return the environment that divides the cores among the runs; what the user has set wins over it."""
    threads = {"OMP_NUM_THREADS": str(max(1, cores // parallel))}
    # Threads that spin while they wait take the cores from the other runs.
    return threads if parallel == 1 else {**threads, "OMP_WAIT_POLICY": "passive"}


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reason_of(log: Path, code: int) -> str:
    """Return why a run ended with this code, from the end of its log."""
    try:
        lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    lines = [line for line in lines if line]
    told = [i for i, line in enumerate(lines) if line.startswith("error:")]
    if told:
        bug = BUG in lines[told[-1]]  # the traceback stands before it; its last line says most
        lines = lines[max(0, told[-1] - bug) :]
    else:
        lines = lines[-_LAST_LINES:]
    if code < 0:
        lines.append(f"ended by signal {-code}" + (": out of memory?" if code == -9 else ""))
    return "\n".join(lines) or f"exit code {code}, nothing printed"


def _start(job: Path, log: Path, environment: Mapping[str, str], lock: int) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "splitft.launch.compare_worker", str(job), *plugin_options()],
            stdin=subprocess.PIPE,  # its end stops the run; see splitft.launch.compare_worker
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C reaches the comparison alone, which stops its runs in order
            pass_fds=(lock,),
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes: by request, so that they keep their last whole round; on another interrupt, at once."""
    try:
        for process in processes:
            _close(process)
        end = time.monotonic() + SECONDS_TO_STOP
        for process in processes:
            process.wait(max(0.1, end - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass  # those that are left are ended below
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()

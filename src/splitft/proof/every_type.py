"""Try the split on every causal-LM type of the installed transformers, each safe from the others."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable

from splitft.errors import ModelError
from splitft.proof.every_type_worker import READY
from splitft.proof.split import SplitReport
from splitft.proof.types import causal_types

SECONDS_A_TYPE = 60.0
_SECONDS_TO_START = 300.0  # importing torch and transformers on a slow, busy machine


def check_all_architectures(
    progress: Callable[[SplitReport, int, int], None] | None = None,
    model_types: Iterable[str] | None = None,
    seconds_a_type: float = SECONDS_A_TYPE,
) -> list[SplitReport]:
    """Check the default configuration of every type (or of these), shrunk, at every cut.

    A type that crashes its process, or takes longer than `seconds_a_type`, counts as one that could not be
    built, and the rest goes on in a new process.

    progress: called with each report, the number of types done, and the number of all.
    """
    names = list(causal_types() if model_types is None else model_types)
    reports: list[SplitReport] = []
    worker: _Worker | None = None
    try:
        for name in names:
            worker = worker or _Worker()
            report = worker.ask(name, seconds_a_type)
            if report is None:
                report = _lost(name, worker.stop(), seconds_a_type)
                worker = None
            reports.append(report)
            if progress is not None:
                progress(report, len(reports), len(names))
    finally:
        if worker is not None:
            worker.stop()
    return reports


class _Worker:
    """A process that checks one type after another."""

    def __init__(self) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "splitft.proof.every_type_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env=environment,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        if self._line(_SECONDS_TO_START) != READY:
            self.stop()
            raise ModelError(
                "the checking process does not start: does `python -c 'import transformers'` work?"
            )

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put("")  # the end

    def _line(self, seconds: float) -> str:
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return ""

    def ask(self, model_type: str, seconds: float) -> SplitReport | None:
        """The report on one type; None where the process died or was too slow."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it may have died since its last answer
            self._process.stdin.write(model_type + "\n")
            self._process.stdin.flush()
        line = self._line(seconds)
        if not line:
            return None
        values = json.loads(line)
        return SplitReport(**{**values, "cuts": tuple(values["cuts"])})

    def stop(self) -> int | None:
        """End the process; return its exit status if it had ended before, else None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        status = self._process.poll()
        if status is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return status


def _lost(model_type: str, status: int | None, seconds: float) -> SplitReport:
    reason = (
        f"took longer than {seconds:.0f} s" if status is None else f"ended its process with status {status}"
    )
    return SplitReport.refused(reason, model_type, built=False)

"""The log of faults: what a client's message raised that no check foresees. The run goes on without it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from splitft.common.files import append_line
from splitft.common.notices import Notice

FAULTS = "faults.log"


@dataclass(frozen=True)
class FaultLog:
    """Keeps the tracebacks, one a client at most, in a file of the run's folder."""

    path: Path
    notice: Callable[[str], None]  # prints one line

    def keep(self, name: str, error: BaseException) -> str:
        """Write an error's traceback; return the reason for which its client is expelled."""
        kind = type(error).__name__
        append_line(self.path, f"{name}:\n" + "".join(traceback.format_exception(error)).rstrip())
        text = (
            f"what {name} sent raised {kind}; the traceback is in {self.path}. If {name} runs an unchanged "
            "splitft, this is a bug in SplitFT: please report it"
        )
        self.notice(Notice(text, "client.fault", "error", client=name, kind=kind))
        detail = str(error) if isinstance(error, ValueError) else kind
        return f"what it sent could not be processed ({detail})"

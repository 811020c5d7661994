"""The output folder of a run: opened once, never written over."""

from __future__ import annotations

import tempfile
from pathlib import Path

from splitft.errors import OutputError

FILES = (
    "job.yaml",
    "history.jsonl",
    "summary.json",
    "adapter",
    "adapters",
    "decisions.jsonl",
    "checkpoints",
    "perplexity.png",
    "partition.png",
)


def check_output_dir(path: str | Path, *, new: bool = True) -> Path:
    """Return the folder, made if absent, after making sure that it is writable and, if `new`, holds no run.

    Raises OutputError. Nothing is left behind but the folder itself.
    """
    folder = Path(path).expanduser()
    found = [name for name in FILES if (folder / name).exists()] if new else []
    if found:
        go_on = "go on with it (--resume), " if "checkpoints" in found else ""
        raise OutputError(
            f"output_dir {folder} already holds a run ({', '.join(found)}); {go_on}"
            "choose another with output_dir=FOLDER, or move that one away"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"output_dir {folder} cannot be written: {reason}; choose another") from None
    return folder

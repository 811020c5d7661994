"""Arguments of the command line that need more than typer to be read. Raises JobError on a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splitft.common.startup import import_libraries
from splitft.errors import JobError


def load(job: str, overrides: list[str] | None) -> Any:
    """Return the job of a file or a recipe, with keys set anew. Raises JobError."""
    from splitft.job import load_job

    loaded = load_job(job, overrides or ())
    import_libraries()  # after that: a wrong job is told at once
    return loaded


def names_job(name: str | None, overrides: list[str] | None, cuts: str | None) -> bool:
    """Whether `splitft check` is given a job, a YAML file or a recipe, and not a model."""
    from splitft.job.recipes import recipes  # here: yaml takes time to import

    path = Path(name or "")
    named = path.suffix in (".yaml", ".yml") or (name in recipes() and not path.exists())
    if named and cuts:
        raise JobError("--cuts goes with a MODEL; a job states its own: cuts=[1,2]")
    if overrides and not named:
        raise JobError(f"{overrides[0]} goes with a JOB; {name} is a model")
    return named


def check_no_key(option: str) -> None:
    """Raise JobError where an unknown option is a key of the job."""
    from splitft.job import Job

    key = option.lstrip("-").replace("-", "_")
    if key in Job.model_fields:
        raise JobError(f"there is no option {option}: {key} is a key of the job, written {key}=VALUE")


def parse_cuts(text: str) -> list[int]:
    """Return the cuts that --cuts names, sorted."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts):
        raise JobError(
            f"--cuts {text}: write numbers of blocks, at least 1, with commas between: --cuts 1,2,8"
        )
    return sorted({int(part) for part in parts})


def read_token(path: Path | None, option: str = "--token-file") -> str:
    """Return the secret in the file of an option; empty without one."""
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{option} {path} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not 16 <= len(token) <= 1024:
        raise JobError(f"{option} {path}: a secret has 16 to 1024 characters, this one {len(token)}")
    return token

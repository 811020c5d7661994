"""Registered clients: the file with their names, which the server alone reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from splitft.common.files import write_atomically
from splitft.common.text import plain
from splitft.errors import JobError
from splitft.job.sections import NAME_PATTERN

KEPT = "clients.txt"  # in the run's folder: the names with which the run began
MOST_CLIENTS, MOST_BYTES = 1_000_000, 1 << 26
_NAME = re.compile(NAME_PATTERN)


def read_clients(file: str | Path) -> list[str]:
    """Return the names in a file, one in each line, in its order; empty lines and those with # do not count.

    Raises JobError, which names the line, where a name is none or comes twice, and where the file cannot be
    read.
    """
    path = Path(file).expanduser()
    where = f"network.clients_file {path}"
    try:
        with path.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise JobError(f"{where} is not UTF-8 text: write a name in each line") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise JobError(f"{where} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(data) > MOST_BYTES:
        raise JobError(f"{where} is longer than {MOST_BYTES:,} bytes: write a name in each line")
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if not _NAME.fullmatch(name):
            raise JobError(
                f"{where}, line {number}: {plain(name, 80)!r} is no name of a client: write up to 64 of "
                "a-z, 0-9, - and _, a letter or digit first"
            )
        if name in found:
            raise JobError(f"{where}, line {number}: {name} stands in line {found[name]} already")
        found[name] = number
    if not found or len(found) > MOST_CLIENTS:
        raise JobError(f"{where} has {len(found):,} names: write 1 to {MOST_CLIENTS:,}")
    return list(found)


def check_clients(folder: Path, names: Sequence[str], per_round: int | None, fewest: int | None) -> None:
    """Hold registered clients to a job and to the run in its folder, and keep them there.

    per_round, fewest: the job's `clients_per_round` and `network.min_clients`. Raises JobError where they ask
    for more clients than are registered, and where the names of the run are not the first of these.
    """
    for key, count in (("clients_per_round", per_round), ("network.min_clients", fewest)):
        if count and count > len(names):
            raise JobError(f"{key}: {count} is more than network.clients_file has ({len(names)})")
    kept = folder / KEPT
    if kept.exists():
        before = read_clients(kept)
        if list(names[: len(before)]) != before:
            raise JobError(
                f"network.clients_file: the run in {folder} began with {len(before)} other names "
                f"({digest(before)[:12]}, see {kept}): names may be added at the end only, since their order "
                "is that of all sums"
            )
    write_atomically(kept, "".join(f"{name}\n" for name in names), mode=0o600)


def digest(names: Sequence[str]) -> str:
    """Return the SHA-256 of names in their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()

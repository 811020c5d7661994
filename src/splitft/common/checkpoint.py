"""Checkpoints: the whole state of a party after a round, written so that a crash at any moment loses none.

A checkpoint is a folder: `state.json`, `tensors.safetensors`, and `manifest.json` with the SHA-256 of both
and of itself. It is written beside its place, flushed to the disk, and renamed into it; a reader takes the
newest one that is whole. Nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from splitft.common.failpoints import failpoint
from splitft.common.files import disk_of
from splitft.common.state import State, pack, unpack
from splitft.errors import OutputError

FOLDER = "checkpoints"
FORMAT = 1
STATE, TENSORS, MANIFEST = "state.json", "tensors.safetensors", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state after a round. passed_over: newer checkpoints that are damaged, with what is wrong."""

    round: int
    state: State
    passed_over: tuple[str, ...] = ()


class DamagedError(Exception):
    """Why a checkpoint cannot be used."""


def save_checkpoint(folder: Path, round_: int, state: State, *, keep: int) -> None:
    """Write the state after a round, then remove all but the newest `keep` checkpoints.

    Raises OutputError where it cannot be written; those that were there before stay as they are.
    """
    disk = disk_of(folder)
    place, beside = folder / _name(round_), folder / f".{_name(round_)}.part"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in folder.glob(".*.part"):
            disk.remove_tree(old)
        beside.mkdir(mode=0o700)
        values, tensors = pack(state)
        files = {STATE: json.dumps(values).encode(), TENSORS: save(tensors)}
        files[MANIFEST] = _manifest(round_, {name: _digest(content) for name, content in files.items()})
        for name, content in files.items():
            disk.write_flushed(beside / name, content)
            failpoint(f"checkpoint.{name}")
        disk.flush_folder(beside)
        failpoint("checkpoint.written")
        if place.exists():  # a damaged one, or one of an attempt that went further
            disk.remove_tree(place)
        beside.rename(place)
        failpoint("checkpoint.renamed")
        disk.flush_folder(folder)
        failpoint("checkpoint.flushed")
        for old in sorted(folder.glob("round-*"))[:-keep]:
            disk.remove_tree(old)
    except OSError as error:
        disk.remove_tree(beside, ignore_errors=True)
        kept = ", ".join(path.name for path in sorted(folder.glob("round-*"))) or "none"
        raise OutputError(
            f"the checkpoint of round {round_} cannot be written to {folder}: {error.strerror or error}. "
            "Make room, then start this again (a run or a server with --resume); checkpoints that are there: "
            f"{kept}"
        ) from None


def load_checkpoint(folder: Path, round_: int | None = None) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, None where there is no checkpoint at all.

    round_: only the one after this round; None where it is damaged or missing. Raises OutputError where all
    are damaged.
    """
    passed_over: list[str] = []
    if round_ is not None:
        try:
            return Checkpoint(*_read(folder / _name(round_)))
        except (DamagedError, OSError):
            return None
    for path in sorted(folder.glob("round-*"), reverse=True):
        try:
            return Checkpoint(*_read(path), tuple(passed_over))
        except (DamagedError, OSError) as problem:
            passed_over.append(f"{path.name}: {problem}")
    if passed_over:
        raise OutputError(
            f"no checkpoint in {folder} is whole ({'; '.join(passed_over)}): start again with another "
            "output_dir"
        )
    return None


def remove_checkpoints(folder: Path, *, after: int | None = None) -> None:
    """Remove the checkpoints of a run that needs them no more; after: those of later rounds only."""
    if after is None:
        disk_of(folder).remove_tree(folder, ignore_errors=True)
        return
    for path in folder.glob("round-*"):
        if path.name > _name(after):
            disk_of(folder).remove_tree(path, ignore_errors=True)


def _read(path: Path) -> tuple[int, State]:
    try:
        text = (path / MANIFEST).read_bytes()
        given: Any = json.loads(text)
        sums = {STATE: given["files"][STATE], TENSORS: given["files"][TENSORS]}
        found, round_ = given["format"], int(given["round"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedError(f"{MANIFEST} is missing or damaged") from None
    if found != FORMAT:
        raise DamagedError(f"format {found} is not this version's ({FORMAT})")
    if text != _manifest(round_, sums) or path.name != _name(round_):
        raise DamagedError(f"{MANIFEST} is damaged")
    content = {name: (path / name).read_bytes() for name in sums}
    for name, expected in sums.items():
        if _digest(content[name]) != expected:
            raise DamagedError(f"{name} is damaged")
    try:
        return round_, unpack(json.loads(content[STATE]), load(content[TENSORS]))
    except Exception as error:  # whole files that no writer of this format made
        raise DamagedError(f"not a state: {error}") from None


def _manifest(round_: int, sums: Mapping[str, str]) -> bytes:
    content = {"format": FORMAT, "round": round_, "files": dict(sums)}
    return json.dumps(content | {"sha256": _digest(json.dumps(content).encode())}).encode()


def _name(round_: int) -> str:
    return f"round-{round_:06d}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

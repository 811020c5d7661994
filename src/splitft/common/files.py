"""Files that are written whole or not at all, and their errors."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splitft.errors import OutputError

_KEPT = "what was written before is complete"


@contextmanager
def writing(what: object, remedy: str) -> Iterator[None]:
    """Turn an OSError inside into an OutputError that names what is written, the reason and a remedy."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{what} cannot be written: {error.strerror or error}; {remedy}") from None


def writable_folder(folder: Path, name: str) -> Path:
    """Make a folder that no other user can enter, or take one as it is; prove that it can be written.

    name: The option or key that states it. Raises OutputError.
    """
    folder = folder.expanduser()
    with writing(f"{name} {folder}", "choose another"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    return folder


def write_atomically(path: Path, text: str, *, mode: int | None = None, flushed: bool = False) -> None:
    """Write a small text file so that readers see the old or the new one, never a part.

    mode: its permissions; None: as the process makes files. flushed: a loss of power does not undo it.
    Raises OutputError.
    """
    temporary, disk = path.with_name(f".{path.name}.{os.getpid()}"), disk_of(path)
    with writing(path, _KEPT):
        temporary.write_text(text, encoding="utf-8")
        if mode is not None:
            temporary.chmod(mode)
        if flushed:
            disk.flush_file(temporary)
        temporary.replace(path)
        if flushed:
            disk.flush_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file. Raises OutputError."""
    with writing(path, _KEPT):
        disk_of(path).append(path, line + "\n")


def append_mark(path: Path, line: str) -> None:
    """Append a line that no loss of power undoes; the last one may be torn by one. Raises OutputError."""
    disk = disk_of(path)
    with writing(path, _KEPT):
        disk.append(path, ("" if disk.ends_a_line(path) else "\n") + line + "\n")
        disk.flush_file(path)


def flush(path: Path) -> None:
    """Flush a file, or all files below a folder, and their names to the disk. Raises OutputError."""
    disk = disk_of(path)
    with writing(path, _KEPT):
        for below in sorted(path.rglob("*")) if path.is_dir() else [path]:
            (disk.flush_folder if below.is_dir() else disk.flush_file)(below)
        if path.is_dir():
            disk.flush_folder(path)
        disk.flush_folder(path.parent)


def disk_of(path: Path) -> Disk:
    """Return the disk that a path lies on: that of this machine, or another one that the path brings."""
    disk: Disk = getattr(path, "disk", _DISK)
    return disk


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Disk:
    """What paths themselves cannot do: flush, append, and remove whole folders. Raises OSError."""

    def write_flushed(self, path: Path, content: bytes) -> None:
        """Write a file that its owner alone can read, and flush it to the disk."""
        with open(path, "wb", opener=_for_owner) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def flush_file(self, path: Path) -> None:
        """Flush a file's contents to the disk."""
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    def flush_folder(self, folder: Path) -> None:
        """Flush the names in a folder to the disk."""
        if os.name == "posix":  # elsewhere a folder cannot be opened
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def append(self, path: Path, text: str) -> None:
        """Append to a file."""
        with path.open("a", encoding="utf-8") as file:
            file.write(text)

    def ends_a_line(self, path: Path) -> bool:
        """Return whether what is appended to a file begins a line."""
        if not path.exists() or not path.stat().st_size:
            return True
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def remove_tree(self, folder: Path, *, ignore_errors: bool = False) -> None:
        """Remove a folder with all that is in it."""
        shutil.rmtree(folder, ignore_errors=ignore_errors)


_DISK = Disk()

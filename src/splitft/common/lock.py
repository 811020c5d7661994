"""A lock on a folder, held by one process until it ends, however it ends."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from types import TracebackType

from splitft.common.files import writable_folder
from splitft.errors import OutputError

try:
    import fcntl
except ImportError:  # not POSIX: no lock is taken
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


class FolderLock:
    """The lock of a folder: released by `release`, by the end of a `with` block, or by the process's end."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Remove the lock's file and let others in."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)  # while the lock is held, so that no other's file is removed
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_folder(folder: Path, name: str) -> FolderLock:
    """Make a folder, prove that it can be written, and lock it.

    name: The option or key that states it. Raises OutputError where it cannot be written, or where another
    process has the lock.
    """
    folder = writable_folder(folder, name)
    path = folder / FILE
    while fcntl is not None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in _TAKEN:  # a file system without locks
                break
            raise OutputError(
                f"{name} {folder} is in use by {holder or 'another process'}: wait for its end, or choose "
                f"another {name}"
            ) from None
        # The last holder may have removed the file between the two calls: then the lock is on no file.
        if _is_file(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return FolderLock(path, descriptor)
        os.close(descriptor)
    return FolderLock(path, None)


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether a descriptor is of the file that is at this path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False

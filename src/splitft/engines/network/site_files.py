"""The states of a client on its disk: after each round, and when it had sent its adapters."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from splitft.common.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from splitft.common.files import append_line, disk_of, writing
from splitft.common.state import State, pack
from splitft.engines.network.control import Load
from splitft.engines.network.faults import FAULTS
from splitft.errors import DataError, OutputError, PolicyError
from splitft.wire.memory.sealed import is_key, new_key

SAVED, FINISHED, KEY = "saved", "finished", "memory.key"
KEEP = 2  # checkpoints: the server may go back to the one before the last
GB = 10**9


@dataclass(frozen=True)
class SiteFiles:
    """The checkpoints below a client's folder. most_gb: of disk space that it may take; None: any."""

    folder: Path
    most_gb: float | None = None

    def find(self, wanted: Load, data: str) -> State | None:
        """Return the state that a server counts on, None where there is none.

        data: digest of the client's rows. Raises DataError where the state was trained on others.
        """
        # At the very start: checkpoints of an earlier run would count as newer ones.
        if not wanted.done and not wanted.finished:
            remove_checkpoints(self.folder / SAVED)
            remove_checkpoints(self.folder / FINISHED)
            return None
        # Those of rounds that are trained again would count as newer. That of the next may be wanted yet.
        for kind in (SAVED, FINISHED):
            remove_checkpoints(self.folder / kind, after=wanted.done + 1)
        kind = FINISHED if wanted.finished else SAVED
        found = load_checkpoint(self.folder / kind, wanted.done + wanted.finished)
        if found is None:
            return None
        if found.state.get("data", data) != data:
            raise DataError(
                f"the data are not those of the state in {self.folder}: put the same file back, or start "
                "this client with another --folder"
            )
        return found.state

    def save(self, kind: str, number: int, state: State) -> None:
        """Write a state. Raises OutputError where it cannot be written, PolicyError beyond `most_gb`."""
        if self.most_gb is not None:
            self.check_room(pack(state)[1].values())
        save_checkpoint(self.folder / kind, number, state, keep=KEEP)

    def check_room(self, tensors: Iterable[Tensor]) -> None:
        """Raise PolicyError where the folder would hold more than `most_gb` with these tensors, too."""
        if self.most_gb is None:
            return
        held = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if held + size > self.most_gb * GB:
            raise PolicyError(
                f"{self.folder} would hold {(held + size) / GB:.3g} GB, max_disk_gb is {self.most_gb:g}"
            )

    def memory_key(self) -> str:
        """Return the key that seals what servers keep of this client's samples; made the first time.

        Raises OutputError where it cannot be written.
        """
        path, disk = self.folder / KEY, disk_of(self.folder)
        if path.exists() and is_key(key := path.read_text(encoding="utf-8")):  # a crash may have torn it
            return key
        key = new_key()
        with writing(path, "choose another --folder"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            disk.write_flushed(path, key.encode())
            disk.flush_folder(self.folder)
        return key

    def keep_fault(self, error: BaseException) -> Path:
        """Write down the traceback of an error; return the file."""
        path = self.folder / FAULTS
        with suppress(OutputError):
            append_line(path, "".join(traceback.format_exception(error)).rstrip())
        return path

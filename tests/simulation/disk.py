"""A disk in memory that can lose power: what was not flushed may then be lost, or half there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

Names = dict[str, "File"]


class File:
    """Contents of a file. safe: bytes of them that were flushed."""

    def __init__(self, content: bytes, safe: int = 0) -> None:
        self.content, self.safe = content, safe


class MemoryDisk:
    """Files by path; a folder is a path that ends in a slash. op: called before each change."""

    def __init__(self, op: Callable[[str], None]) -> None:
        self.names: Names = {}  # as the party sees them
        self._kept: Names = {}  # as they are after a loss of power, before `_pending`
        self._pending: list[tuple[str, Callable[[Names], None]]] = []  # folder and change, in order
        self.op = op

    def root(self, name: str) -> Place:
        return Place(self, name)

    def write_flushed(self, path: Place, content: bytes) -> None:
        self.write(path, content)
        self.op(f"flush {path}")
        self.names[path.path].safe = len(content)

    def write(self, path: Place, content: bytes) -> None:
        self.op(f"write {path}")
        file = File(content)
        self.change(path.folder, lambda names: names.__setitem__(path.path, file))

    def append(self, path: Place, text: str) -> None:
        self.op(f"append {path}")
        if path.path not in self.names:
            file = File(b"")
            self.change(path.folder, lambda names: names.__setitem__(path.path, file))
        self.names[path.path].content += text.encode()

    def ends_a_line(self, path: Place) -> bool:
        return path.path not in self.names or self.names[path.path].content[-1:] in (b"", b"\n")

    def flush_file(self, path: Place) -> None:
        self.op(f"flush {path}")
        self.names[path.path].safe = len(self.names[path.path].content)

    def flush_folder(self, folder: Place) -> None:
        self.op(f"flush {folder}")
        for place, change in self._pending:
            if place == folder.path:
                change(self._kept)
        self._pending = [one for one in self._pending if one[0] != folder.path]

    def remove_tree(self, folder: Place, *, ignore_errors: bool = False) -> None:
        self.op(f"remove {folder}")
        below = folder.path + "/"

        gone = {name: file for name, file in self.names.items() if name.startswith(below)}

        def remove(names: Names) -> None:
            for name, file in gone.items():
                if names.get(name) is file:
                    del names[name]

        self.change(folder.folder, remove)

    def change(self, folder: str, change: Callable[[Names], None]) -> None:
        change(self.names)
        self._pending.append((folder, change))

    def lose_power(self, random_: random.Random) -> None:
        """Keep what was flushed, and of the rest as much as the random numbers say."""
        for _, change in self._pending[: random_.randint(0, len(self._pending))]:
            change(self._kept)
        self._pending.clear()
        for file in self._kept.values():
            if file.safe < len(file.content):
                file.content = file.content[: random_.randint(file.safe, len(file.content))]
            file.safe = len(file.content)
        self.names = dict(self._kept)


class Place:
    """What is used of a `Path` on such a disk."""

    def __init__(self, disk: MemoryDisk, path: str) -> None:
        self.disk, self.path = disk, path

    def __truediv__(self, name: str) -> Place:
        return Place(self.disk, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path

    @property
    def parent(self) -> Place:
        return Place(self.disk, self.folder)

    def is_dir(self) -> bool:
        return self.path + "/" in self.disk.names

    def __lt__(self, other: Place) -> bool:
        return self.path < other.path

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    def exists(self) -> bool:
        below = self.path + "/"
        return self.path in self.disk.names or any(name.startswith(below) for name in self.disk.names)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if self.exists():
            if exist_ok:
                return
            raise FileExistsError(self.path)
        self.disk.op(f"mkdir {self}")
        self.disk.change(self.folder, lambda names: names.__setitem__(self.path + "/", File(b"")))

    def glob(self, pattern: str) -> Iterator[Place]:
        below = self.path + "/"
        inside = {name[len(below) :].partition("/")[0] for name in self.disk.names if name.startswith(below)}
        return (self / name for name in sorted(inside) if name and fnmatchcase(name, pattern))

    def with_name(self, name: str) -> Place:
        return self.parent / name

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.disk.write(self, text.encode(encoding))

    def chmod(self, mode: int) -> None: ...

    def replace(self, target: Place) -> None:
        """Give a file another's name."""
        self.disk.op(f"replace {target}")
        file = self.disk.names[self.path]

        def replace(names: Names) -> None:
            if names.get(self.path) is file:
                del names[self.path]
                names[target.path] = file

        self.disk.change(target.folder, replace)

    def rename(self, target: Place) -> None:
        self.disk.op(f"rename {self}")
        old, new = self.path + "/", target.path + "/"

        moved = {name: file for name, file in self.disk.names.items() if name.startswith(old)}

        def rename(names: Names) -> None:
            for name, file in moved.items():
                if names.get(name) is file:
                    del names[name]
                    names[new + name[len(old) :]] = file

        self.disk.change(target.folder, rename)

    def read_bytes(self) -> bytes:
        if self.path not in self.disk.names:
            raise FileNotFoundError(self.path)
        return self.disk.names[self.path].content

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

"""Extension points: pieces of one kind by name, the built-in ones and a user's own.

A job names registered names alone, never code. A user's pieces come from `splitft.register_...`, from an
installed package (entry points of the group `splitft.plugins`), or from `--plugin MODULE`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Generic, TypeVar, overload

from splitft.common.plugins import load_installed, loading
from splitft.errors import JobError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Pieces of one kind by name.

    kind: the field's word for them, for messages. register_name: the public function that registers one.
    built_in: {name: piece}. reserved: names that stand for no piece, such as "none".
    value: the class of a piece that is a value; None: pieces are called.
    """

    def __init__(
        self,
        kind: str,
        register_name: str,
        built_in: Mapping[str, T],
        reserved: Collection[str] = (),
        value: type | None = None,
    ) -> None:
        self.kind = kind
        self._register_name = register_name
        self._built_in = dict(built_in)
        self._reserved = tuple(reserved)
        self._value = value
        self._own: dict[str, T] = {}
        self._plugins: dict[str, str] = {}  # of a user's names: where they come from

    @overload
    def register(self, name: str, piece: T) -> T: ...
    @overload
    def register(self, name: str, piece: None = None) -> Callable[[T], T]: ...
    def register(self, name: str, piece: T | None = None) -> T | Callable[[T], T]:
        """Register a piece under a name, or return the decorator that does; a user's name may be replaced.

        Raises JobError for a name that is built in, empty or another plugin's, and for a piece that cannot be
        called.
        """
        if not isinstance(name, str) or not name:
            raise JobError(f"the name of a {self.kind} must be a string that is not empty, not {name!r}")
        if name in self._built_in or name in self._reserved:
            raise JobError(f"{name} is a built-in {self.kind}: register yours under another name")
        if piece is None:
            return partial(self.register, name)
        if self._value and not isinstance(piece, self._value):
            raise JobError(f"{self.kind} {name} must be a {self._value.__name__}, not {piece!r}")
        if not self._value and not callable(piece):
            raise JobError(f"{self.kind} {name} must be a function or a class, not {piece!r}")
        plugin = loading()
        if plugin and self._plugins.get(name, plugin) != plugin:
            raise JobError(
                f"the plugin {self._plugins[name]} has registered a {self.kind} {name}: rename one of the two"
            )
        if plugin:
            self._plugins[name] = plugin
        self._own[name] = piece
        return piece

    def names(self) -> list[str]:
        """Return all names: reserved, built in, and a user's own in the order of their registration."""
        load_installed()
        return [*self._reserved, *self._built_in, *self._own]

    def is_built_in(self, name: str) -> bool:
        """Return whether a name is the project's own."""
        return name in self._built_in or name in self._reserved

    def find(self, name: str) -> T:
        """Return the piece of a name. Raises JobError with the nearest name and the list of all."""
        if name not in self._built_in and name not in self._own:
            load_installed()
        piece = self._built_in.get(name) or self._own.get(name)
        if piece is None:
            raise unknown_name(self.kind, name, self.names(), self._register_name)
        return piece

    def check(self, key: str, name: str) -> None:
        """Raise JobError, which names the job's key, where nobody has registered this name."""
        if name in self._reserved:
            return
        try:
            self.find(name)
        except JobError as error:
            raise JobError(f"{key}: {error}") from None

"""What the server keeps of clients' samples, in its checkpoints and back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from torch import Tensor

from splitft.common.state import State
from splitft.engines.network.roster import Roster
from splitft.wire.channel import Channel
from splitft.wire.memory.sealed import opened, sealed


@dataclass(eq=False)
class KeptSamples:
    """The server's memories of samples. In checkpoints nothing of them opens without the clients' keys."""

    roster: Roster
    channels: Mapping[str, Channel]
    _sealed: dict[str, list[Tensor]] = field(default_factory=dict, init=False)  # of clients that are to come

    def state(self) -> State:
        """Return what a checkpoint holds of each client's samples."""
        names = dict.fromkeys((*self.channels, *self._sealed))
        return {name: self._sealed.get(name) or self._seal(name) for name in names}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state`: of each client now, or once it has lent its key.

        Samples that an earlier version kept unsealed are dropped: both ends start anew.
        """
        self._sealed = {name: kept for name, kept in state.items() if isinstance(kept, list)}
        for name in self.channels:
            self.open(name)

    def open(self, name: str) -> None:
        """Restore what is kept of a client's samples, where it has lent its key.

        Where that is another key the memory starts anew, as the client's does, which has lost its folder.
        """
        key = self.roster[name].memory_key
        if key and (pieces := self._sealed.pop(name, None)) is not None:
            with suppress(ValueError):
                self.channels[name].memory.load_state(opened(pieces, key, name))

    def _seal(self, name: str) -> list[Tensor] | None:
        key, state = self.roster[name].memory_key, self.channels[name].memory.state()
        return sealed(state, key, name) if key and state else None

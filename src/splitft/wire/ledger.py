"""The byte ledger: what crossed between clients and server, by direction and kind. (ours)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from torch import Tensor

from splitft.common.state import State
from splitft.wire.messages import Activations, HeldOut, Message, Metrics, TrunkOutput, wire_size

Direction = Literal["up", "down"]  # up: client to server

EVALUATION_KINDS = ("evaluation", "held_out")  # all other bytes are those of training

_KIND_OF_FIELD = {
    "hidden": "activations",
    "gradient": "gradients",
    "labels": "labels",
    "input_ids": "labels",
    "grad_norms": "control",
    "values": "adapter",
    "bases": "optimizer",
    "moments": "optimizer",
}


def bytes_by_kind(message: Message) -> Counter[str]:
    """Return the wire bytes of one message by kind.

    Kinds: activations, gradients, labels (ids of either sort), adapter, optimizer (state that moves with a
    block, changes of basis), evaluation (all of a message sent to evaluate), held_out (all of a message with
    the ids of rows that the server evaluates by itself), control (headers, norms).
    """
    header_bytes, tensor_bytes = wire_size(message)
    if isinstance(message, HeldOut):
        return Counter(held_out=header_bytes + tensor_bytes)
    if isinstance(message, Metrics) or (isinstance(message, Activations | TrunkOutput) and not message.train):
        return Counter(evaluation=header_bytes + tensor_bytes)
    counts = Counter(control=header_bytes)
    for item in fields(message):
        value = getattr(message, item.name)
        kind = _KIND_OF_FIELD.get(item.name)
        if item.name == "packed":
            kind = "activations" if isinstance(message, Activations | TrunkOutput) else "gradients"
        if kind is None or value is None:
            continue
        for tensor in [value] if isinstance(value, Tensor) else value:
            counts[kind] += tensor.numel() * tensor.element_size()
    return counts


def by_phase(kinds: Mapping[str, int]) -> dict[str, int]:
    """Return bytes by phase, {training, evaluation, both: bytes}, of bytes by kind."""
    both, evaluation = sum(kinds.values()), sum(kinds.get(kind, 0) for kind in EVALUATION_KINDS)
    return {"training": both - evaluation, "evaluation": evaluation, "both": both}


@dataclass
class Ledger:
    """Counts bytes as messages pass; `rows` maps (direction, kind) to bytes, `clients` (direction, name)."""

    rows: Counter[tuple[Direction, str]] = field(default_factory=Counter)
    clients: Counter[tuple[Direction, str]] = field(default_factory=Counter, compare=False)

    def count(self, direction: Direction, message: Message, client: str = "") -> None:
        """Count a message. client: its sender or its receiver."""
        kinds = bytes_by_kind(message)
        for kind, number in kinds.items():
            self.rows[direction, kind] += number
        self.clients[direction, client] += sum(kinds.values())

    def copy(self) -> Ledger:
        """Return the counts as they stand."""
        return Ledger(Counter(self.rows))

    def since(self, earlier: Ledger) -> Ledger:
        """Return what was counted after `earlier` was copied."""
        return Ledger(self.rows - earlier.rows)

    def state(self) -> State:
        """Return the counts as a checkpoint holds them."""
        return {
            "rows": [[way, kind, number] for (way, kind), number in self.rows.items()],
            "clients": [[way, name, number] for (way, name), number in self.clients.items()],
        }

    def load_state(self, state: State) -> None:
        """Be as `state` was taken."""
        self.rows = Counter({(way, kind): number for way, kind, number in state["rows"]})
        self.clients = Counter({(way, name): number for way, name, number in state.get("clients", ())})

    def total(self, direction: Direction) -> int:
        """Return all bytes of a direction."""
        return sum(number for (way, _), number in self.rows.items() if way == direction)

    def by_phase(self) -> dict[str, dict[str, int]]:
        """Return {direction: {training, evaluation, both: bytes}}."""
        return {way: by_phase(kinds) for way, kinds in self.by_kind().items()}

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Return {direction: {kind: bytes}} with sorted keys, fit for JSON."""
        return {
            way: {kind: n for (w, kind), n in sorted(self.rows.items()) if w == way} for way in ("up", "down")
        }

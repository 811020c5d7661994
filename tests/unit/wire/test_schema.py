"""The messages of the wire: a change of any is a new version of the protocol, by a new digest here."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack
import pytest

from splitft.engines.network.control import (
    PROTOCOL,
    SCHEMA,
    WIRE,
    End,
    Hello,
    Refused,
    Welcome,
    in_plain_words,
)
from splitft.wire.encoding import Wire

# The digest of each version of the messages. A message changed: add a line, and raise PROTOCOL in control.py.
SCHEMAS = {5: "07acac51c31e", 6: "843749e021ab", 7: "869f36605ca5", 8: "52b57600379c", 9: "abb92a0c8111"}
# The handshake is read by every version: number of the kind, and the fields that the first version had.
HANDSHAKE: dict[type, tuple[int, tuple[str, ...]]] = {
    Hello: (10, ("protocol", "name", "token", "process", "session", "received")),
    Welcome: (11, ("session", "received", "job", "targets", "excluded", "server_inputs")),
    Refused: (12, ("reason", "again")),
    End: (25, ("reason", "ok")),
}


@dataclass(frozen=True)
class Greeting:
    protocol: int
    name: str = "nobody"


@dataclass(frozen=True)
class LaterGreeting:
    protocol: int
    name: str = "nobody"
    words: tuple[str, ...] = ()
    more: int = 0


def test_a_change_of_the_messages_has_a_version_of_its_own() -> None:
    assert SCHEMAS[PROTOCOL] == SCHEMA == WIRE.schema()[:12]
    assert len(set(SCHEMAS.values())) == len(SCHEMAS) and max(SCHEMAS) == PROTOCOL


def test_the_handshake_keeps_its_places() -> None:
    for kind, (number, names) in HANDSHAKE.items():
        assert WIRE.kinds.index(kind) == number, kind
        assert tuple(kind.__dataclass_fields__)[: len(names)] == names  # type: ignore[attr-defined]


def test_open_kinds_are_read_by_older_and_newer_versions() -> None:
    old, new = (Wire([kind], max_text=99, open_kinds=[kind]) for kind in (Greeting, LaterGreeting))
    newer = b"".join(new.encode(LaterGreeting(7, "anna", ("a", "b"), 3)))
    older = b"".join(old.encode(Greeting(4, "bert")))
    assert old.decode(newer) == Greeting(7, "anna")
    assert new.decode(older) == LaterGreeting(4, "bert")
    closed = Wire([Greeting], max_text=99)
    with pytest.raises(ValueError, match="not a list of 2 entries"):
        closed.decode(newer)
    nothing = msgpack.packb([0, []])
    with pytest.raises(ValueError, match="Greeting has 0 fields"):
        old.decode(len(nothing).to_bytes(4, "little") + nothing)


def test_words_of_a_server_are_one_plain_line() -> None:
    for message in (Refused("\x1b[2Jno\nway", False), End("\x1b[2Jno\nway", False)):
        assert in_plain_words(message).reason == " [2Jno way"

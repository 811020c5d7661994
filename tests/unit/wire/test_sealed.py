"""What checkpoints hold of a client's samples: it opens with that client's key, and in its place alone."""

from __future__ import annotations

import pytest
import torch

from splitft.wire.memory import sealed as module
from splitft.wire.memory.sealed import is_key, new_key, opened, sealed

STATE = {
    "cut": 2, "digest": "ab", "empty": {}, "nothing": None,
    "kept": {7: [torch.arange(40, dtype=torch.int8), torch.linspace(0, 1, 5)], 9: [torch.ones(0, 3)]},
}  # fmt: skip


def same(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(map(same, first.values(), second.values()))
        )
    if isinstance(first, list):
        return isinstance(second, list) and len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("piece", [module.PIECE, 100])
def test_a_state_comes_back(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    key = new_key()
    pieces = sealed(STATE, key, "anna")
    assert (len(pieces) > 1) == (piece == 100) and all(one.dtype == torch.uint8 for one in pieces)
    assert same(opened(pieces, key, "anna"), STATE)
    again = sealed(STATE, key, "anna")
    assert not any(torch.equal(*both) for both in zip(pieces, again, strict=True)), "a nonce came twice"


def test_nothing_else_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 100)
    key = new_key()
    pieces = sealed(STATE, key, "anna")
    damaged = [pieces[0].clone(), *pieces[1:]]
    damaged[0][-1] ^= 1
    wrong = {
        "another key": (pieces, new_key(), "anna"),
        "another client": (pieces, key, "bert"),
        "damaged": (damaged, key, "anna"),
        "another order": ([pieces[1], pieces[0], *pieces[2:]], key, "anna"),
        "cut off": (pieces[:-1], key, "anna"),
        "too short": ([pieces[0][:5], *pieces[1:]], key, "anna"),
    }
    for what, (given, with_key, name) in wrong.items():
        with pytest.raises(ValueError, match="samples does not open"):
            print(what, opened(given, with_key, name))


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "A" * 64, "0" * 63, "0" * 65, "0" * 63 + "\n"])
def test_what_is_no_key(text: str) -> None:
    assert not is_key(text) and is_key(new_key())

"""Answers and requests of a sum that cannot be honest are refused before anything is computed with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from splitft.engines.network.sum_answers import AnswerCheck, keys_of, roll_message, roll_of
from splitft.engines.network.sum_messages import (
    KeysStated,
    SharesRevealed,
    SharesSealed,
    SurvivorsSigned,
    to_bytes,
    to_tensor,
)
from splitft.wire.secagg.member import SumMember
from splitft.wire.secagg.roll import Unsigned, context_of

CHECK = AnswerCheck({"anna": 7}, ["anna", "bert"])
KEY = to_tensor(bytes(32))
STATED = KeysStated(1, 1, KEY, KEY, KEY, 7, to_tensor(b""), to_tensor(b""))
SHARE = to_tensor(bytes(66))


@pytest.mark.parametrize("answer", [
    replace(STATED, weight=8),
    replace(STATED, bound=("anna", "\x1b[2J")),
    replace(STATED, mask_key=to_tensor(bytes(31))),
    replace(STATED, seal_key=torch.zeros(32)),
    replace(STATED, commitment=torch.zeros(4, 8, dtype=torch.uint8)),
    replace(STATED, certificate=to_tensor(bytes(1 << 14))),
    SharesSealed(1, 1, ("bert",), ()),
    SharesSealed(1, 1, ("bert", "bert"), (SHARE, SHARE)),
    SharesSealed(1, 1, ("bert",), (to_tensor(bytes(1000)),)),
    SharesRevealed(1, 1, ("bert",), (to_tensor(bytes(67)),)),
    SurvivorsSigned(1, 1, torch.zeros(3)),
])  # fmt: skip
def test_an_answer_of_another_form_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError):
        CHECK("anna", answer)


def test_an_honest_answer_is_taken() -> None:
    CHECK("anna", STATED)
    CHECK("anna", replace(STATED, bound=("anna", "bert")))
    CHECK("anna", SharesSealed(1, 1, ("bert",), (SHARE,)))
    CHECK("anna", SurvivorsSigned(1, 1, to_tensor(b"x")))
    assert to_bytes(to_tensor(b"abc"), 3) == b"abc" and to_bytes(to_tensor(b""), 3) == b""


def test_the_roll_crosses_as_it_is() -> None:
    members = [SumMember(name, context_of(1, 1), 5, None, 3, Unsigned()) for name in ("anna", "bert", "cleo")]
    roll = {name: member.keys() for name, member in zip(("anna", "bert", "cleo"), members, strict=True)}
    told = roll_message(1, 1, roll)
    assert roll_of(told) == roll
    assert keys_of(STATED).mask_key == bytes(32)
    for wrong in (replace(told, weights=(1, 2)), replace(told, clients=("anna", "anna", "bert"))):
        with pytest.raises(ValueError):
            roll_of(wrong)

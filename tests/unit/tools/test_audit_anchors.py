"""`splitft audit` on the built-in model: what it reads by cut and codec, and of labels at home."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from splitft import load_job
from splitft.running.prepare import Assembly, assemble
from splitft.tools.audit.attack import attack_all, label_line, public_tail, victim_of
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import audited, capture
from splitft.tools.audit.lines import INVERTER, VERIFY
from splitft.tools.audit.public import public_rows, public_text

pytestmark = pytest.mark.slow
QUIET = Console(quiet=True)
ROWS, NEAR = 8, 0.05
MOST_CPU = 600  # seconds of all tests here
JOB = [
    "clients=4", "cuts=[1,2,4,8]", "cut_policy.method=fixed", "devices=null", "labels=client",
    "tail_blocks=1", "codec=none", "max_eval_samples=8",
]  # fmt: skip
# Shares of tokens that a ridge regression on another public text, and a search with a cache of keys and
# values, read of speeches at these cuts: the longest rows of a step, 220 to 400 tokens each.
RIDGE = {
    "none": {1: 0.997, 2: 0.912, 4: 0.841, 8: 0.620},
    "int8": {1: 0.997, 2: 0.912},
    "int3": {1: 0.993, 2: 0.897, 4: 0.803},
}
SEARCH = {
    "none": {1: 1.0, 2: 0.994, 4: 0.968, 8: 0.828},
    "int8": {1: 1.0, 2: 0.997},
    "int3": {1: 1.0, 2: 0.985, 4: 0.958},
}


@pytest.fixture(scope="module", autouse=True)
def limit() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < MOST_CPU


@pytest.fixture(scope="module")
def start() -> Assembly:
    return assemble(audited(load_job("quickstart", JOB), ROWS), QUIET)


def with_keys(start: Assembly, **changes: Any) -> Assembly:
    return replace(start, job=start.job.model_copy(update=changes))


def knowledge_of(start: Assembly) -> ServerKnowledge:
    public = public_rows(start.tokenizer, public_text(None))
    return ServerKnowledge(start.split_model, start.job, start.adapter, public)


@pytest.mark.parametrize("codec", ["none", "int8", "int3"])
def test_text_is_read_as_measured(start: Assembly, codec: str) -> None:
    """Where a cut has no figure of a codec's own, that of no codec."""
    coded = with_keys(start, codec=codec, gradient_codec=None, labels="server", tail_blocks=0)
    found, _ = attack_all(coded, knowledge_of(coded), capture(coded), ROWS, 0.0, QUIET, longest=True)
    faults = []
    for how, figures in ((INVERTER, RIDGE), (VERIFY, SEARCH)):
        for line in found.lines:
            if line.attack == how:
                assert line.reading is not None and line.cut is not None
                expected = figures[codec].get(line.cut, figures["none"][line.cut])
                read = line.reading.tokens.value
                print(f"{codec} cut {line.cut} {how}: {read:.3f} ({expected})")
                # The search here tries other candidates: it may read more.
                far = abs(read - expected) if how == INVERTER else expected - read
                faults += [(line.cut, how, read, expected)] if far > NEAR else []
    assert not faults
    assert all(null.ok for null in found.nulls)


@pytest.mark.parametrize(
    ("tail_blocks", "gradient_codec", "expected"),
    [(1, "none", 0.984), (1, "int2", 0.979), (2, "none", 0.941)],
)
def test_labels_at_home_are_read_as_measured(
    start: Assembly, tail_blocks: int, gradient_codec: str, expected: float
) -> None:
    few = with_keys(start, tail_blocks=tail_blocks, gradient_codec=gradient_codec)
    knowledge = knowledge_of(few)
    view = capture(few, answered=ROWS)[1]
    victim = victim_of(few, knowledge, view, ROWS, longest=True)
    line = label_line(knowledge, victim, public_tail(knowledge, tail_blocks), 4, 0)
    assert line.reading is not None
    read = line.reading.tokens.value
    print(f"tail {tail_blocks}, gradients {gradient_codec}: {read:.3f} ({expected})")
    assert read >= expected - NEAR

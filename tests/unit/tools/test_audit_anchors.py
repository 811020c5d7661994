"""`splitft audit` on the built-in model: what it reads by cut and codec, and of labels at home."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from splitft import load_job
from splitft.running.prepare import Assembly, assemble
from splitft.tools.audit.attack import attack_text
from splitft.tools.audit.attacks.inverter import make_inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.attacks.labels import labels_of
from splitft.tools.audit.attacks.verify import measure_noise
from splitft.tools.audit.attacks.view import ClientView
from splitft.tools.audit.capture import audited, capture, true_rows
from splitft.tools.audit.lines import INVERTER, VERIFY, TruthOf, truth_of
from splitft.tools.audit.public import public_rows, public_text

pytestmark = pytest.mark.slow
ROWS, NEAR = 8, 0.05
JOB = [
    "clients=4", "cuts=[1,2,4,8]", "cut_policy.method=fixed", "devices=null", "labels=client",
    "tail_blocks=1", "codec=none", "max_train_samples=400", "max_eval_samples=8",
]  # fmt: skip
# Shares of tokens that a ridge regression on another public text, and a search with a cache of keys and
# values, read of speeches at these cuts; 220 to 400 tokens each.
RIDGE = {
    "none": {1: 0.997, 2: 0.912, 4: 0.841, 8: 0.620},
    "int8": {1: 0.997, 2: 0.912},
    "int3": {1: 0.993, 2: 0.897, 4: 0.803},
}
SEARCH = {"none": {1: 1.0, 2: 0.994, 4: 0.968, 8: 0.828}, "int8": {2: 0.997}, "int3": {2: 0.985, 4: 0.958}}


@pytest.fixture(scope="module")
def start() -> Assembly:
    return assemble(audited(load_job("quickstart", JOB), ROWS), Console(quiet=True))


def with_keys(start: Assembly, **changes: Any) -> Assembly:
    return replace(start, job=start.job.model_copy(update=changes))


def knowledge_of(start: Assembly) -> ServerKnowledge:
    public = public_rows(start.tokenizer, public_text(None))
    return ServerKnowledge(start.split_model, start.job, start.adapter, public)


def truth(start: Assembly, knowledge: ServerKnowledge, view: ClientView) -> TruthOf:
    data = next(client for client in start.clients if client.name == view.name)
    own = [ids.tolist() for ids in data.train.input_ids]
    return truth_of(knowledge, true_rows(start, view), own, ROWS)


@pytest.mark.parametrize("codec", ["none", "int8", "int3"])
def test_text_is_read_as_measured(start: Assembly, codec: str) -> None:
    coded = with_keys(start, codec=codec, gradient_codec=None)
    knowledge = knowledge_of(coded)
    views = {view.cut: view for view in capture(coded)}
    fronts = knowledge.fronts(knowledge.public, list(RIDGE[codec]))
    for cut, expected in RIDGE[codec].items():
        view = views[cut]
        own = truth(coded, knowledge, view)
        inverter = make_inverter(knowledge, knowledge.through_codec(fronts[cut]))
        found = attack_text(knowledge, view, own.places, inverter, measure_noise(knowledge, cut), prior=0.0)
        ridge, search = (own.score(found[how], 0).tokens.value for how in (INVERTER, VERIFY))
        print(
            f"cut {cut} {codec}: inverter {ridge:.3f} ({expected}), verify {search:.3f}",
            SEARCH[codec].get(cut),
        )
        assert abs(ridge - expected) <= NEAR, (cut, ridge)
        assert search >= SEARCH[codec].get(cut, expected) - NEAR, (cut, search)


@pytest.mark.parametrize(
    ("tail_blocks", "gradient_codec", "expected"),
    [(1, "none", 0.984), (1, "int2", 0.979), (2, "none", 0.941)],
)
def test_labels_at_home_are_read_as_measured(
    start: Assembly, tail_blocks: int, gradient_codec: str, expected: float
) -> None:
    few = with_keys(
        start, tail_blocks=tail_blocks, gradient_codec=gradient_codec, gradient_accumulation_steps=1
    )
    knowledge = knowledge_of(few)
    view = capture(few, answered=4)[1]
    own = truth(few, knowledge, view)
    found = labels_of(knowledge, view, tail_blocks, 4)
    read = own.score([found[place] for place in own.places], 0, labels=True).tokens.value
    print(f"tail {tail_blocks}, gradients {gradient_codec}: {read:.3f} ({expected})")
    assert read >= expected - NEAR

"""What an audit finds of redacted tokens: messages do not depend on them, and guessing alone is left."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from reference import make_setting, write_rows
from splitft import Job
from splitft.data import prepare
from splitft.data.redaction.redaction import neutral_token
from splitft.running.prepare import assemble
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import audited, capture
from splitft.tools.audit.redacted import BEFORE, BOTH, Place, aligned, guess, hidden_places, score_hidden
from splitft.wire.messages import Message

QUIET = Console(quiet=True)
NAMES = ("Ada", "Wilhelmina of Orange")
REDACT: dict[str, Any] = {"patterns": ["|".join(NAMES)]}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("redacted")
    made = make_setting(folder, "llama", num_hidden_layers=4, hidden_size=32)
    rows = write_rows(folder / "rows.txt", rows=40).read_text().split("\n\n")
    for name in NAMES:
        named = [f"we the {name} of states, {row} {name} union" for row in rows]
        (folder / f"{name[0]}.txt").write_text("\n\n".join(named))
    return made | {
        "clients": 2, "cuts": [1, 2], "rounds": 1, "local_steps": 1, "labels": "client", "warmup_steps": 0,
        "per_device_train_batch_size": 4, "max_length": 32, "adapter_name_or_path": None,
        "output_dir": str(folder / "run"), "partition": {"method": "length_dirichlet"},
    }  # fmt: skip


def job_of(settings: dict[str, Any], name: str, **changes: Any) -> Job:
    file = Path(settings["output_dir"]).parent / f"{name[0]}.txt"
    return audited(Job(**settings | {"data_files": str(file)} | changes), 8)


def values(message: Message) -> list[Any]:
    """All of a message, tensors as lists."""
    found = []
    for field in fields(message):
        value = getattr(message, field.name)
        parts = value if isinstance(value, tuple) else (value,)
        found.append([one.tolist() if isinstance(one, torch.Tensor) else one for one in parts])
    return found


@pytest.mark.parametrize("labels", ["client", "server"])
def test_no_message_depends_on_a_redacted_token(labels: str, settings: dict[str, Any]) -> None:
    """Two clients whose rows differ in redacted names alone send the same messages; else they do not."""
    keys = {"labels": labels, "tail_blocks": None}
    for redact in (REDACT, {}):
        sent = [
            [values(m) for view in capture(assemble(job_of(settings, name, redact=redact, **keys), QUIET))
             for m in view.up]
            for name in NAMES
        ]  # fmt: skip
        assert len(sent[0]) >= 4
        assert (sent[0] == sent[1]) is bool(redact)


def test_what_is_left_is_to_guess(settings: dict[str, Any]) -> None:
    start = assemble(job_of(settings, NAMES[1], redact=REDACT), QUIET)
    assert start.prepared is not None
    whole = prepare(start.job.model_copy(update={"redact": type(start.job.redact)()}), start.tokenizer)
    knowledge = ServerKnowledge(start.split_model, start.job, start.adapter, [])
    neutral = neutral_token(start.tokenizer)
    rows = hidden_places(knowledge, start.prepared, whole, neutral, 12)
    name = start.tokenizer(f" {NAMES[1]}")["input_ids"]
    assert len(rows) == 12 and all(1 <= len(row) <= 2 for row in rows)
    assert all(place.true == name for row in rows for place in row)
    assert all(neutral not in place.before and len(place.floor) == len(name) for row in rows for place in row)
    scored = score_hidden(knowledge, rows, set(name), neutral, 0)
    for reading in scored.values():
        assert reading.tokens.count == sum(len(name) for row in rows for _ in row) > 50
        assert reading.tokens.value < 0.2  # a model of random weights knows no name
    assert set(scored) == {BEFORE, BOTH}


def test_a_guess_follows_the_model_and_looks_at_the_word_after(settings: dict[str, Any]) -> None:
    """The model's own continuation is guessed right, and of two candidates the one that fits what follows."""
    start = assemble(job_of(settings, NAMES[0]), QUIET)
    knowledge = ServerKnowledge(start.split_model, start.job, start.adapter, [])
    text = torch.tensor([5, 9, 30, 41])
    first = int(knowledge.next_log_probabilities([text])[0].argmax())
    second = int(knowledge.next_log_probabilities([torch.cat([text, torch.tensor([first])])])[0].argmax())
    true = [first, second]
    place = Place(text, None, true, [0, 0])
    assert guess(knowledge, [place], neutral=0 if 0 not in true else 2, both=False) == [true]
    hidden = Place(text, None, [first], [0])
    assert guess(knowledge, [hidden], neutral=first, both=False) != [[first]]  # the neutral token is no guess
    chosen = set()
    for after in range(40, 80):
        chosen.add(guess(knowledge, [Place(text, after, [first], [0])], neutral=0, both=True)[0][0])
    assert len(chosen) > 1


def test_places_of_neutral_tokens_beside_the_true_row() -> None:
    neutral = 7
    assert aligned([1, 2, 7, 3, 4], [1, 2, 50, 51, 52, 3, 4], neutral) == {2: (2, 5)}
    assert aligned([7, 3, 4, 7], [50, 3, 4, 60, 61], neutral) == {0: (0, 1), 3: (3, 5)}
    assert aligned([1, 2, 3], [1, 2, 3], neutral) == {}

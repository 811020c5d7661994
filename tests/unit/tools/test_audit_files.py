"""`splitft audit --run`: what it finds in files, and that it finds nothing where there is nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from reference import make_setting
from splitft import Job, OutputError
from splitft.common.checkpoint import save_checkpoint
from splitft.running.prepare import Assembly, assemble
from splitft.tools.audit.attack import Tools, make_tools
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import audited
from splitft.tools.audit.command import audit_command
from splitft.tools.audit.haystacks import of_folder
from splitft.tools.audit.left_behind import IN_ACTIVATIONS, IN_IDS, IN_TEXT, audit_folder
from splitft.tools.audit.lines import Line
from splitft.tools.audit.nulls import same_moments
from splitft.tools.audit.public import public_rows, public_text
from splitft.wire.codecs.int8 import Int8

CUT, HIDDEN = 1, 64


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    folder = tmp_path_factory.mktemp("files")
    made = make_setting(folder, "llama", num_hidden_layers=4, hidden_size=HIDDEN)
    rng = np.random.default_rng(7)
    texts = ["".join(rng.choice([*"abcdefghij "], size=int(rng.integers(8, 120)))) for _ in range(90)]
    (folder / "rows.txt").write_text("\n\n".join(texts))
    job = made | {
        "data_files": str(folder / "rows.txt"), "clients": 2, "cuts": [CUT, CUT],
        "rounds": 1, "local_steps": 1, "warmup_steps": 0, "max_length": 96, "adapter_name_or_path": None,
        "output_dir": str(folder / "run"),
    }  # fmt: skip
    return assemble(audited(Job(**job), 4, whole=True), Console(quiet=True))


@pytest.fixture(scope="module")
def knowledge(start: Assembly) -> ServerKnowledge:
    public = public_rows(start.tokenizer, public_text(None))[:250]
    return ServerKnowledge(start.split_model, start.job, start.adapter, public)


@pytest.fixture(scope="module")
def tools(knowledge: ServerKnowledge) -> Tools:
    return make_tools(knowledge, [CUT])


@pytest.fixture(scope="module")
def rows(start: Assembly) -> list[Tensor]:
    """Rows of the first client, long enough to be looked for."""
    ids = [torch.as_tensor(own).long() for own in start.clients[0].train.input_ids]
    return [own for own in ids if len(own) >= 50][:12]


@pytest.fixture
def found(
    start: Assembly, knowledge: ServerKnowledge, tools: Tools, tmp_path: Path
) -> Callable[[], dict[str, Line]]:
    """Audits the folder; returns the line of each search, of which there is one."""

    def audit() -> dict[str, Line]:
        lines, _ = audit_folder(start, knowledge, tmp_path, tools)
        return {line.attack + (" verified" if "verify" in line.note else ""): line for line in lines}

    return audit


def text_of(start: Assembly, row: Tensor) -> str:
    return str(start.tokenizer.decode(row.tolist()))


@pytest.mark.parametrize(
    ("form", "where"),
    [
        ("a log line", IN_IDS), ("floats in a record", IN_IDS), ("integers of a checkpoint", IN_IDS),
        ("metadata of tensors", IN_IDS), ("bytes of a cache", IN_IDS),
        ("text in a log", IN_TEXT), ("text in a checkpoint's integers", IN_TEXT),
        ("text that JSON escapes", IN_TEXT), ("text among bytes", IN_TEXT),
    ],
)  # fmt: skip
def test_a_planted_leak_is_found(
    start: Assembly, rows: list[Tensor], found: Any, tmp_path: Path, form: str, where: str
) -> None:
    row, text = rows[0], text_of(start, rows[0])
    if form == "a log line":
        log = logging.FileHandler(tmp_path / "server.log")
        log.emit(logging.makeLogRecord({"msg": f"step 3, ids {row.tolist()}, loss 2.5"}))
        log.close()
    elif form == "floats in a record":
        (tmp_path / "steps.jsonl").write_text(json.dumps({"sizes": [float(one) for one in row]}) + "\n")
    elif form == "integers of a checkpoint":
        save_checkpoint(tmp_path / "checkpoints", 1, {"seen": row.int()}, keep=1)
    elif form == "metadata of tensors":
        save_file({"a": torch.rand(3)}, tmp_path / "a.safetensors", {"order": json.dumps(row.tolist())})
    elif form == "bytes of a cache":
        (tmp_path / "cache.bin").write_bytes(b"\xff\xfe\xfd\xfc" + row.int().numpy().tobytes())
    elif form == "text in a log":
        (tmp_path / "server.log").write_text(f"round 1\nbad row: {text}\n")
    elif form == "text in a checkpoint's integers":
        codes = torch.tensor([ord(one) for one in text], dtype=torch.int32)
        save_checkpoint(tmp_path / "checkpoints", 1, {"notes": {"a": codes}}, keep=1)
    elif form == "text that JSON escapes":
        escaped = "".join(f"\\u{ord(one):04x}" for one in text)
        (tmp_path / "summary.json").write_text(f'{{"samples": ["{escaped}"]}}')
    else:
        (tmp_path / "core").write_bytes(b"\xff\x00\xfe" + text.encode() + b"\xff")
    lines = found()
    line = lines.pop(where)
    assert line.reading is not None and line.client == start.clients[0].name
    assert line.verdict == "readable" and line.reading.tokens.value >= 0.95, line.note
    assert {other.verdict for other in lines.values()} == {"not found"}


def test_nothing_is_found_where_nothing_is(
    start: Assembly, knowledge: ServerKnowledge, rows: list[Tensor], found: Any, tmp_path: Path
) -> None:
    """Noise of activations' moments, an adapter, numbers, and text that the model knows anyway."""
    hidden = knowledge.front(rows, CUT)
    noise = {f"kept/{place}": one for place, one in enumerate(same_moments(hidden, seed=3))}
    adapter = {f"{b}.{name}": one for b, block in start.adapter.items() for name, one in block.items()}
    save_file(noise | adapter | {"mask": torch.ones(400, dtype=torch.int32)}, tmp_path / "a.safetensors")
    (tmp_path / "history.jsonl").write_text("\n".join(json.dumps({"round": i}) for i in range(300)))
    (tmp_path / "page.md").write_text(public_text(None)[:20000])
    lines = found()
    assert {line.verdict for line in lines.values()} == {"not found"} and len(lines) == 3
    assert f"{len(rows)} tensors" in lines[IN_ACTIVATIONS].note


@pytest.mark.parametrize("form", ["bfloat16", "int8 with scales", "int8 alone"])
def test_kept_activations_are_read(
    knowledge: ServerKnowledge, rows: list[Tensor], found: Any, tmp_path: Path, form: str
) -> None:
    kept: dict[str, Tensor] = {}
    for place, hidden in enumerate(knowledge.front(rows, CUT)):
        values, scales = Int8().encode(hidden, [len(hidden)])
        stored = {
            "bfloat16": [hidden.bfloat16()],
            "int8 with scales": [values, scales],
            "int8 alone": [values],
        }
        kept |= {f"/memories/{place}/{part}": one for part, one in enumerate(stored[form])}
    save_file(kept, tmp_path / "tensors.safetensors")
    lines = found()
    read = lines[IN_ACTIVATIONS].reading
    assert read.tokens.low > 0.05 and read.tokens.value >= 0.4, lines[IN_ACTIVATIONS]
    assert read.rows == len(rows), "each tensor is read as its own row"
    assert lines[f"{IN_ACTIVATIONS} verified"].reading.tokens.value >= read.tokens.value - 0.02


def test_what_is_too_large_is_told(start: Assembly, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("splitft.tools.audit.haystacks.LARGEST", 1000)
    monkeypatch.setattr("splitft.tools.audit.haystacks.MOST_BYTES", 100)
    (tmp_path / "a.log").write_text("a" * 1001)
    (tmp_path / "b.bin").write_bytes(b"\xff" * 200)
    (tmp_path / "link").symlink_to(tmp_path / "a.log")
    hays = list(of_folder(tmp_path, without=["c"]))
    assert [hay.name for hay in hays] == ["a.log", "b.bin"] and [hay.left for hay in hays] == [
        ["a.log"],
        ["b.bin"],
    ]


def test_a_folder_that_is_none(start: Assembly, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no folder"):
        audit_command(start.stated, run=tmp_path / "nowhere", console=Console(quiet=True))

"""Which tokens are answers, told by the norms of the gradients that a tail returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from reference import WORDS, make_setting
from splitft import Job
from splitft.tools.audit.command import audit_command
from splitft.tools.audit.lines import NORMS
from splitft.tools.audit.public import public_text

QUIET = Console(quiet=True)


@pytest.fixture
def setting(tmp_path: Path) -> dict[str, Any]:
    rng, lines = np.random.default_rng(4), []
    for _ in range(40):
        prompt, answer = (" ".join(rng.choice(WORDS, size=int(rng.integers(2, 5)))) for _ in range(2))
        lines.append(json.dumps({"prompt": f"{prompt} ", "completion": answer}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "public.txt").write_text(public_text(None)[:12000])
    return make_setting(tmp_path, "llama", num_hidden_layers=4) | {
        "data_files": str(tmp_path / "rows.jsonl"), "labels": "client", "clients": 1, "cuts": [1],
        "rounds": 1, "local_steps": 1, "warmup_steps": 0, "max_length": 64, "adapter_name_or_path": None,
        "output_dir": str(tmp_path / "run"),
    }  # fmt: skip


def answers_of(setting: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    told = audit_command(Job(**setting), rows=12, public=folder / "public.txt", console=QUIET)
    return [line for line in told["lines"] if line["attack"] == NORMS]


def test_answers_stand_out_by_their_gradients(setting: dict[str, Any], tmp_path: Path) -> None:
    (line,) = answers_of(setting, tmp_path)
    assert line["of"] == "answers" and line["verdict"] in ("readable", "partly readable")
    assert float(line["note"].split()[1]) > 0.7 and "12 rows" in line["note"]


def test_rows_of_which_every_token_is_trained_on_have_no_answers(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    assert answers_of(setting | {"completion_only_loss": False}, tmp_path) == []

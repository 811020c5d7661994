"""A codec of a user's own is held to its contract, and a wrong answer is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from reference import make_setting
from splitft import Job, JobError, Part, register_codec, run


class Half:
    """Right; the others do one thing wrong."""

    def layout(self, lengths: Any, width: int) -> Any:
        return (Part("values", torch.float16, (sum(lengths), width)),)

    def encode(self, rows: Any, lengths: Any) -> Any:
        return (rows.half(),)

    def decode(self, parts: Any, lengths: Any, width: int) -> Any:
        return parts[0].float()


def wrong(**methods: Callable[..., Any]) -> type:
    return type("Wrong", (Half,), methods)


WRONG: dict[str, tuple[type, str]] = {
    "one row for all": (
        wrong(decode=lambda self, parts, lengths, width: parts[0].float().mean(0, keepdim=True)),
        r"codec wrong: decode must return float32 \((\d+), 32\), it returned float32 \(1, 32\)",
    ),
    "another dtype": (
        wrong(decode=lambda self, parts, lengths, width: parts[0]),
        r"decode must return float32 \(.*it returned float16",
    ),
    "no tensor": (
        wrong(decode=lambda self, parts, lengths, width: parts),
        r"decode must return float32 \(.*it returned tuple",
    ),
    "not a number": (
        wrong(decode=lambda self, parts, lengths, width: parts[0].float() / 0),
        "decode must return finite values",
    ),
    "parts of another dtype": (
        wrong(encode=lambda self, rows, lengths: (rows,)),
        r"encode, part 'values' must return float16 \(.*it returned float32",
    ),
    "a part too many": (
        wrong(encode=lambda self, rows, lengths: (rows.half(), rows.half())),
        "encode must return the 1 parts of its layout, it returned 2 parts",
    ),
    "no parts": (
        wrong(encode=lambda self, rows, lengths: rows.half()),
        "encode must return the 1 parts of its layout, it returned Tensor",
    ),
    "a layout of shapes": (
        wrong(layout=lambda self, lengths, width: [(sum(lengths), width)]),
        r"layout must return a tuple of splitft.Part, it returned \[\(",
    ),
    "an error": (wrong(decode=lambda self, *_: {}["x"]), "codec wrong: decode failed: KeyError: 'x'"),
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_setting(tmp_path_factory.mktemp("codec"), "llama") | {
        "clients": 2, "rounds": 1, "local_steps": 3, "max_eval_samples": 4, "cuts": 2,
    }  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_refused_by_name(case: str, setting: dict[str, Any], tmp_path: Path) -> None:
    made, problem = WRONG[case]
    register_codec("wrong", made)
    job = Job(**setting | {"codec": "wrong"}, output_dir=str(tmp_path / "run"))
    with pytest.raises(JobError, match=problem):
        run(job, console=Console(quiet=True))


def test_a_right_one_runs(setting: dict[str, Any], tmp_path: Path) -> None:
    register_codec("right")(Half)
    job = Job(**setting | {"codec": "right"}, output_dir=str(tmp_path / "run"))
    assert run(job, console=Console(quiet=True)).summary["rounds"] == 1

"""Codecs in whole runs: the same in one process and over connections, counted as sent, safe from garbage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cases import rest_slow
from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from run_files import adapter_of
from splitft import Job, JobError, load_job, register_codec, run
from splitft.errors import DivergedError
from splitft.launch import cli
from splitft.wire.codecs.codec import Part
from splitft.wire.messages import Activations

NAMES = ["anna", "bert", "mallory"]
CODECS: dict[str, Settings] = {
    "int8": {"codec": "int8"},
    "few bits": {"codec": "int3", "gradient_codec": "int2", "eval_codec": "int8"},
    "bf16 up": {"codec": "bf16", "gradient_codec": "none"},
}
MODES: dict[str, Settings] = {
    "labels at the server": {},
    "labels at home, shared": {"labels": "client", "tail_blocks": 1, "server_adapter": "shared"},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("codecs")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=30, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=4, hidden_size=128) | {
        "data_files": files, "rounds": 2, "local_steps": 2, "cuts": [1, 2, 2], "labels": "server",
        "max_eval_samples": None, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "warmup_steps": 0,
    }  # fmt: skip


def local(settings: Settings, folder: Path) -> Path:
    return run(Job(**settings, output_dir=str(folder / "local")), console=QUIET).output_dir


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("codec", rest_slow(CODECS, ["few bits"]))
def test_over_connections_as_in_one_process(codec: str, mode: str, setting: Settings, tmp_path: Path) -> None:
    settings = setting | CODECS[codec] | MODES[mode]
    here, there = local(settings, tmp_path), together(settings, tmp_path)
    assert adapter_of(here) == adapter_of(there)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (here, there)]
    assert summaries[0]["bytes"] == summaries[1]["bytes"]


def test_fewer_bits_are_fewer_bytes_and_nearly_the_same_model(setting: Settings, tmp_path: Path) -> None:
    found = {}
    for codec in ("none", "bf16", "int8", "int4"):
        folder = local(setting | {"codec": codec}, tmp_path / codec)
        summary = json.loads((folder / "summary.json").read_text())
        up, down = summary["bytes"]["up"]["activations"], summary["bytes"]["down"]["gradients"]
        found[codec] = up, down, summary["perplexity"]
    for finer, coarser in zip(list(found.values()), list(found.values())[1:], strict=False):
        assert coarser[0] < finer[0] and coarser[1] < finer[1]
    assert found["bf16"][:2] == (found["none"][0] // 2, found["none"][1] // 2)
    for codec, share in (("bf16", 0.01), ("int8", 0.01), ("int4", 0.03)):
        assert found[codec][2] == pytest.approx(found["none"][2], rel=share)


def test_a_run_over_a_network_has_int8_unless_the_job_says_so(setting: Settings, tmp_path: Path) -> None:
    open_ = {key: value for key, value in setting.items() if key != "codec"}
    there = together(open_ | {"rounds": 1}, tmp_path)
    stated = load_job(there / "job.yaml")
    assert (stated.codec, stated.gradient_codec, stated.eval_codec) == ("int8", "int8", "bf16")
    here = local(open_ | {"rounds": 1}, tmp_path)
    assert load_job(here / "job.yaml").codec is None
    assert (
        json.loads((here / "summary.json").read_text())["bytes"]["up"]["activations"]
        > 3 * (json.loads((there / "summary.json").read_text())["bytes"]["up"]["activations"])
    )


def first_part(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Activations], Activations]:
    return lambda message: replace(message, packed=(change(message.packed[0]), *message.packed[1:]))


def stretched(message: Activations) -> Activations:
    return replace(message, lengths=(message.lengths[0] + 1, *message.lengths[1:]))


def columns_beyond(message: Activations) -> Activations:
    wrong = [torch.full_like(part, 10**6) if part.dtype == torch.int32 else part for part in message.packed]
    return replace(message, packed=tuple(wrong))


GARBAGE: dict[str, Callable[[Activations], Activations]] = {
    "a scale of NaN": first_part(lambda part: torch.full_like(part, float("nan"))),
    "a scale of 1e38": first_part(lambda part: torch.full_like(part, 1e38)),
    "another type": first_part(lambda part: part.float()),
    "a row too many": first_part(lambda part: torch.cat([part, part[:1]])),
    "no parts": lambda message: replace(message, packed=()),
    "a part too many": lambda message: replace(message, packed=(*message.packed, torch.zeros(3))),
    "rows beside the parts": lambda message: replace(message, hidden=torch.zeros(2, 3)),
    "other lengths than rows": stretched,
    "columns that are none": columns_beyond,
    "1e12 tokens": lambda message: replace(message, lengths=(10**12,)),
}


@pytest.fixture(scope="module")
def without(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of the run that mallory never was in."""
    files = {name: path for name, path in setting["data_files"].items() if name != "mallory"}
    changes = {"data_files": files, "cuts": [1, 2], "codec": "int4", "network": {"clients": NAMES[:2]}}
    return adapter_of(local(setting | changes, tmp_path_factory.mktemp("honest")))


@pytest.mark.parametrize("what", rest_slow(GARBAGE, ["a scale of NaN"]))
def test_who_sends_what_no_codec_makes_takes_part_no_more(
    what: str, setting: Settings, without: bytes, tmp_path: Path
) -> None:
    from splitft.wire.channel import Channel

    settings, said = setting | {"codec": "int4"}, list[str]()
    channel = Channel(Job(**settings), 128)

    def tamper(message: Any) -> list[Any]:
        if not (isinstance(message, Activations) and message.train):
            return [message]
        from splitft.engines.network.control import packed

        return [packed(GARBAGE[what](channel.pack(message)))]

    folder = together(settings, tmp_path, {"mallory": tamper}, said)
    assert adapter_of(folder) == without
    assert said and any(word in said[0] for word in ("packed", "lengths", "hidden", "column")), said


def test_training_that_diverges_ends_with_what_was_good(
    setting: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = setting | {"codec": "int8", "learning_rate": 1e9, "max_grad_norm": 0.0, "local_steps": 4}
    job = Job(**settings, output_dir=str(tmp_path / "run"))
    with pytest.raises(DivergedError, match="lower learning_rate"):
        run(job, console=QUIET)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["interrupted"] and summary["perplexity"] > 0
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


def test_an_unknown_codec_is_told_before_anything_is_done(
    setting: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitft.job import dump_job

    dump_job(Job(**setting | {"gradient_codec": "int9"}), tmp_path / "job.yaml")
    monkeypatch.setattr("sys.argv", ["splitft", "run", str(tmp_path / "job.yaml")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == JobError.exit_code
    shown = " ".join(capsys.readouterr().err.split())
    assert "gradient_codec: no codec is called int9; did you mean int8?" in shown


class Thirds:
    """A codec of a user's own, and a poor one: every value is -1, 0 or 1 times the largest of its message."""

    def layout(self, lengths, width):  # type: ignore[no-untyped-def]
        return Part("size", torch.float32, (1,)), Part("signs", torch.int8, (sum(lengths), width))

    def encode(self, rows, lengths):  # type: ignore[no-untyped-def]
        size = rows.float().abs().max().reshape(1)
        return size, (rows / size).round().to(torch.int8)

    def decode(self, parts, lengths, width):  # type: ignore[no-untyped-def]
        return parts[1] * parts[0]


def test_a_codec_of_ones_own_runs(setting: Settings, tmp_path: Path) -> None:
    register_codec("thirds", Thirds)
    settings = setting | {"codec": "none", "gradient_codec": "thirds", "rounds": 1}
    summary = json.loads((local(settings, tmp_path) / "summary.json").read_text())
    none = json.loads((local(setting | {"rounds": 1}, tmp_path / "none") / "summary.json").read_text())
    assert summary["bytes"]["down"]["gradients"] < 0.3 * none["bytes"]["down"]["gradients"]
    assert adapter_of(local(settings, tmp_path / "again")) == adapter_of(tmp_path / "local")

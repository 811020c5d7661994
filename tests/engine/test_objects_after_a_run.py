"""Runs from objects of Python afterwards: their tuned model, `splitft evaluate` and the other commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from commands import splitft
from reference import make_setting
from splitft import Job, RunResult, run
from splitft.data import prepare
from splitft.data.references import held_out_references
from splitft.errors import JobError
from splitft.tools.evaluate.generation import GenerationOptions, load_references
from splitft.tools.evaluate.target import Target

QUIET = Console(quiet=True)
NAMES = ["north", "south"]
WORDS = ("united", "states", "government", "peace", "war")


def rows_of(client: str) -> list[dict[str, str]]:
    return [
        {"prompt": f"the law {number} of the {client} {word}", "completion": f" people {word}"}
        for number, word in enumerate(WORDS * 6)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, RunResult]:
    """A folder with a model, the model as an object without a name, and a run from objects."""
    folder = tmp_path_factory.mktemp("objects")
    setting = make_setting(folder, "llama") | {"rounds": 1, "local_steps": 4, "max_eval_samples": None}
    named = ("model_name_or_path", "data_files", "adapter_name_or_path")
    keys = {key: value for key, value in setting.items() if key not in named}
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model.config._name_or_path = ""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    result = run(
        keys, console=QUIET, model=model, tokenizer=tokenizer, output_dir=str(folder / "run"),
        train_dataset={name: rows_of(name) for name in NAMES},
    )  # fmt: skip
    return folder, model, result


def test_the_tuned_model_is_the_object_with_the_adapter(made: tuple[Path, Any, RunResult]) -> None:
    folder, model, result = made
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.tensor([[5, 9, 14, 3]])
    fresh = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    wanted = PeftModel.from_pretrained(fresh, str(result.adapter_path)).eval()
    with torch.no_grad():
        assert torch.equal(result.load_model()(ids).logits, wanted(ids).logits)
        assert result.load_model(dtype=torch.bfloat16).dtype == torch.bfloat16
        result.load_model().merge_and_unload()
    assert result.generate("the law of", 4) == result.generate("the law of", max_new_tokens=4)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # A run that was complete already has the object, too.
    again = run(
        folder / "run" / "job.yaml", console=QUIET, model=model, resume=True,
        train_dataset={name: rows_of(name) for name in NAMES},
    )  # fmt: skip
    assert again.load_model().dtype == torch.float32


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    return lambda *arguments: splitft(*map(str, arguments), monkeypatch=monkeypatch)


def told(capfd: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def test_commands_say_what_is_missing(
    made: tuple[Path, Any, RunResult], command: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sacrebleu", reason="the extra `eval` is not installed")
    folder, name = made[0], "an object from Python without a name"
    for arguments, code, problem in (
        (("evaluate", "{run}", "--generate"), 4, f"{name}: save it .* or with --model"),
        (("evaluate", "{run}/adapter", "--generate", "--data", "x"), 4, f"{name}: save it"),
        (
            ("evaluate", "{run}", "--generate", "--model", "{model}"),
            3,
            "train_dataset were objects .* job.yaml",
        ),
        (("export", "{run}", "{out}", "--merge"), 4, r"result.load_model\(\).merge_and_unload\(\)"),
        (("plan", "{run}/job.yaml"), 4, f"{name}: save it"),
    ):
        places = {"run": folder / "run", "model": folder / "model", "out": folder / "merged"}
        assert command(*(argument.format(**places) for argument in arguments)) == code
        assert re.search(problem, told(capfd))


def test_evaluate_takes_the_model_and_the_rows_from_files(
    made: tuple[Path, Any, RunResult], command: Callable[..., int], tmp_path: Path
) -> None:
    """The rows that the run held out, by the tokenizer beside the adapter: the model's folder has none."""
    pytest.importorskip("sacrebleu", reason="the extra `eval` is not installed")
    folder, model, _ = made
    model.save_pretrained(tmp_path / "bare")
    files = {}
    for name in NAMES:
        files[name] = str(tmp_path / f"{name}.jsonl")
        Path(files[name]).write_text("\n".join(map(json.dumps, rows_of(name))))
    job = folder / "run" / "job.yaml"
    written = job.read_text()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    given = {name: rows_of(name) for name in NAMES}
    held = {
        client.name: [given[client.name][n % len(WORDS * 6)]["completion"] for n in client.eval.records]
        for client in prepare(Job(**yaml.safe_load(written)), tokenizer, given).clients
    }
    common = ["--generate", "--max-new-tokens", 2, "--no-base", "--model", tmp_path / "bare"]
    job.write_text(yaml.safe_dump(yaml.safe_load(written) | {"data_files": files}))
    try:
        assert command("evaluate", folder / "run", *common, "--output", tmp_path / "all.json") == 0
    finally:
        job.write_text(written)
    assert json.loads((tmp_path / "all.json").read_text())["references"] == held
    # One client's, without a change of the job.
    one = ["--data", files["north"], "--name", "north", "--output", tmp_path / "one.json"]
    assert command("evaluate", folder / "run", *common, *one) == 0
    assert json.loads((tmp_path / "one.json").read_text())["references"] == {"north": held["north"]}


def test_references_of_an_evaluation_set_are_its_rows(
    made: tuple[Path, Any, RunResult], tmp_path: Path
) -> None:
    folder, tokenizer = made[0], AutoTokenizer.from_pretrained(made[0] / "model")
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    train.write_text("\n".join(map(json.dumps, rows_of("north"))))
    held.write_text(
        "\n".join(json.dumps({"prompt": "we the", "completion": f" people {n}"}) for n in range(8))
    )
    job = Job(
        model_name_or_path=str(folder / "model"), data_files=str(train), eval_files=str(held), clients=2
    )  # fmt: skip
    found = held_out_references(job, tokenizer)
    assert sorted(row.text for rows in found.values() for row in rows) == [f" people {n}" for n in range(8)]
    target = Target(job.model_name_or_path, data=job)
    with pytest.raises(JobError, match=r"an evaluation set of its own .eval_files.*without --name"):
        load_references(GenerationOptions(data=train, name="north"), target, tokenizer)
    assert list(load_references(GenerationOptions(data=held), target, tokenizer)) == ["held.jsonl"]

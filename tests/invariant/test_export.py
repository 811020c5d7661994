"""I4: what a run exports is a stock PEFT adapter that computes what the run evaluated."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from peft.tuners.lora import LoraLayer
from rich.console import Console
from runs import base_of, perplexity, tuned
from transformers import AutoModelForCausalLM, AutoTokenizer

from commands import hashes, run_process, splitft
from forks import run_command
from reference import make_setting
from splitft import Job, RunResult, run
from splitft.running.export import export_command
from tiny import CHAT_TEMPLATE, save_to

QUIET = Console(quiet=True)
# model type, cuts, blocks that keep the lower rank in the export: those at the cut of every client
CASES = (
    ("gpt2", [2, 2], {1, 2}),
    ("gpt2", [1, 3], set()),
    ("llama", [1, 1], {0, 1}),
    ("llama", [1, 2], {1}),
)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-cuts{case[1]}")
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Job, RunResult, set[int]]:
    """A run whose adapter has two ranks while it trains, and starts from one with B ≠ 0."""
    model_type, cuts, low = request.param
    folder = tmp_path_factory.mktemp("run")
    settings = make_setting(folder, model_type) | {
        "clients": 2, "rounds": 2, "local_steps": 3, "cuts": cuts, "lora_r_cut": 2, "max_eval_samples": 8,
    }  # fmt: skip
    job = Job(**settings, output_dir=str(folder / "run"))
    return job, run(job, console=QUIET), low


def test_stock_peft_gives_the_perplexity_that_the_run_recorded(case: tuple[Job, RunResult, set[int]]) -> None:
    job, result, _ = case
    model = tuned(job, result)
    assert perplexity(model, job) == pytest.approx(result.history[-1].perplexity, rel=1e-5)
    assert result.history[-1].perplexity != pytest.approx(result.history[0].perplexity, rel=1e-3)
    with model.disable_adapter():
        assert perplexity(model, job) != pytest.approx(result.history[-1].perplexity, rel=1e-3)


def test_the_base_model_is_found_from_the_adapter_alone(case: tuple[Job, RunResult, set[int]]) -> None:
    job, result, _ = case
    model = AutoPeftModelForCausalLM.from_pretrained(str(result.adapter_path), dtype=torch.float32)
    ids = torch.arange(2, 22).reshape(2, 10)
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, tuned(job, result)(ids).logits)


def test_lower_ranks_are_stated_with_the_same_scaling(case: tuple[Job, RunResult, set[int]]) -> None:
    job, result, low = case
    config = json.loads((result.adapter_path / "adapter_config.json").read_text(encoding="utf-8"))
    path = "transformer.h" if "c_attn" in (job.lora_target_modules or ()) else "model.layers"
    stated = {int(name.removeprefix(path + ".").split(".")[0]) for name in config["rank_pattern"]}
    assert stated == low
    assert set(config["rank_pattern"].values()) <= {2}
    assert config["alpha_pattern"] == dict.fromkeys(config["rank_pattern"], 4.0)  # 8 · 2 / 4
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    layers = [module for module in tuned(job, result).modules() if isinstance(module, LoraLayer)]
    assert layers
    assert {scaling for layer in layers for scaling in layer.scaling.values()} == {2.0}


def test_a_merged_model_gives_the_adapter_models_logits(
    case: tuple[Job, RunResult, set[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, result, _ = case
    merged = tmp_path / "merged"
    assert splitft("export", result.output_dir, merged, "--merge", monkeypatch=monkeypatch) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    ids = torch.arange(2, 62).reshape(3, 20)
    with torch.no_grad():
        got = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()(ids).logits
        assert (got - tuned(job, result)(ids).logits).abs().max() <= 1e-4
        assert (got - base_of(job).eval()(ids).logits).abs().max() > 1e-2
    text = "the people of the united states"
    assert AutoTokenizer.from_pretrained(merged)(text) == AutoTokenizer.from_pretrained(
        job.model_name_or_path
    )(text)


def test_the_card_says_what_it_is(case: tuple[Job, RunResult, set[int]]) -> None:
    job, result, _ = case
    card = (result.adapter_path / "README.md").read_text(encoding="utf-8")
    _, header, body = card.split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["base_model"] == str(Path(job.model_name_or_path).resolve())
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("peft", "text-generation")
    assert {"lora", "federated-learning", "split-learning"} <= set(metadata["tags"])
    for record in (result.history[0], result.history[-1]):
        assert f"{record.perplexity:.2f}" in body
    assert "{" not in body


def test_training_goes_on_from_what_was_exported(
    case: tuple[Job, RunResult, set[int]], tmp_path: Path
) -> None:
    job, result, _ = case
    for name, changes in {"same": {}, "other": {"cuts": 1, "lora_r": 6, "lora_alpha": 3.0}}.items():
        following = job.model_copy(
            update={
                "adapter_name_or_path": str(result.adapter_path), "rounds": 1, "local_steps": 3,
                "output_dir": str(tmp_path / name), **changes,
            }
        )  # fmt: skip
        further = run(following, console=QUIET)
        assert further.history[0].perplexity == pytest.approx(result.history[-1].perplexity, rel=1e-5)
        assert perplexity(tuned(following, further), following) == pytest.approx(
            further.history[-1].perplexity, rel=1e-5
        )


def test_an_export_copies_and_never_overwrites(
    case: tuple[Job, RunResult, set[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, result, _ = case
    assert splitft("export", result.output_dir, tmp_path / "out", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'out'}\n"
    assert hashes(tmp_path / "out") == hashes(result.adapter_path)
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    before = hashes(tmp_path)
    for out in ("out", "mine", "mine/below"):
        for flags in ([], ["--merge"]):
            arguments = ("export", result.output_dir, tmp_path / out, *flags)
            assert splitft(*arguments, monkeypatch=monkeypatch) == 5
            assert out.partition("/")[0] in capsys.readouterr().err
    assert splitft("export", tmp_path, tmp_path / "new", monkeypatch=monkeypatch) == 2
    assert "holds no adapter" in capsys.readouterr().err
    assert hashes(tmp_path) == before


def test_the_tokenizer_and_its_chat_template_are_beside_the_adapter(tmp_path: Path) -> None:
    settings = make_setting(tmp_path, "llama") | {
        "clients": 2,
        "rounds": 1,
        "local_steps": 1,
        "warmup_steps": 0,
    }
    save_to(tmp_path / "model", CHAT_TEMPLATE)
    result = run(Job(**settings, output_dir=str(tmp_path / "run")), console=QUIET)
    chat = [{"role": "user", "content": "we the people"}]
    for folder in (result.adapter_path, tmp_path / "exported"):
        if not folder.exists():
            export_command(result.output_dir, folder, merge=False)
        found, wanted = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "model"))
        assert found("we the people of") == wanted("we the people of")
        told = found.apply_chat_template(chat, tokenize=False)
        assert told == wanted.apply_chat_template(chat, tokenize=False) == "user: we the people\n"
    job = Job(**settings | {"method": "local_only"}, output_dir=str(tmp_path / "alone"))
    for folder in run(job, console=QUIET).adapter_path.iterdir():
        assert AutoTokenizer.from_pretrained(folder)("we the") == wanted("we the")


def test_the_printed_commands_work_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job with relative paths, in a folder with a space in its name."""
    home, elsewhere = tmp_path / "my runs", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    settings = make_setting(home, "llama") | {"clients": 2, "rounds": 1, "local_steps": 1, "warmup_steps": 0}
    settings |= {"model_name_or_path": "model", "adapter_name_or_path": "adapter", "data_files": "rows.txt"}
    monkeypatch.chdir(home)
    run(Job(**settings, output_dir="run"), console=Console(width=60))
    config = json.loads((home / "run/adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(home / "model")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    loads = next(line for line in lines if line.startswith("python -c "))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = run_process(["bash", "-c", loads], cwd=elsewhere, env=environment)
    assert done.returncode == 0 and "PeftModelForCausalLM" in done.stdout, done.stderr
    merges = next(line for line in lines if line.startswith("splitft export "))
    assert run_command(*shlex.split(merges)[1:], cwd=elsewhere).returncode == 0
    assert AutoTokenizer.from_pretrained(elsewhere / "merged")
    served = shlex.split(next(line for line in lines if line.startswith("vllm serve ")))
    assert (elsewhere / served[2] / "config.json").exists()
    assert (elsewhere / served[-1].removeprefix("tuned=") / "adapter_config.json").exists()

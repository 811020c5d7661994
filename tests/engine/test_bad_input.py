"""Bad input to the real command line: one clear message, the documented exit code, nothing overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_jobs import Settings, assert_one_message, write_job
from rich.console import Console
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from commands import hashes
from forks import run_command
from splitft import Job, run
from splitft.launch import cli
from tiny import save_tiny_model, save_to, tiny_model


def missing_model(job: Settings, folder: Path) -> tuple[str, ...]:
    job["model_name_or_path"] = str(folder / "no-model")
    return ("no-model",)


def folder_that_is_no_model(job: Settings, folder: Path) -> tuple[str, ...]:
    (folder / "empty").mkdir()
    job["model_name_or_path"] = str(folder / "empty")
    return ("empty", "config.json")


def copied_model(job: Settings, folder: Path) -> Path:
    copy = folder / "copy"
    shutil.copytree(job["model_name_or_path"], copy)
    job["model_name_or_path"] = str(copy)
    return copy


def pickled_weights(job: Settings, folder: Path) -> tuple[str, ...]:
    copy = copied_model(job, folder)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    return ("copy", "safetensors")


def weights_cut_short(job: Settings, folder: Path) -> tuple[str, ...]:
    weights = copied_model(job, folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    return ("copy",)


def broken_config(job: Settings, folder: Path) -> tuple[str, ...]:
    (copied_model(job, folder) / "config.json").write_text("{", encoding="utf-8")
    return ("copy", "config.json")


def no_tokenizer(job: Settings, folder: Path) -> tuple[str, ...]:
    for path in copied_model(job, folder).glob("tokenizer*"):
        path.unlink()
    return ("copy", "tokenizer")


def tokenizer_of_another_model(job: Settings, folder: Path) -> tuple[str, ...]:
    job["model_name_or_path"] = str(save_tiny_model(folder / "small", "gpt2", vocab_size=40))
    return ("small", "tokenizer", "39")


def model_of_another_kind(job: Settings, folder: Path) -> tuple[str, ...]:
    config = T5Config(vocab_size=320, d_model=16, d_kv=4, d_ff=16, num_layers=4, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(folder / "t5")
    job["model_name_or_path"] = str(save_to(folder / "t5"))
    return ("t5",)


def unknown_attention(job: Settings, folder: Path) -> tuple[str, ...]:
    job["attn_implementation"] = "nonsense"
    return ("nonsense",)


def cut_at_the_end(job: Settings, folder: Path) -> tuple[str, ...]:
    job["cuts"] = [1, 4]
    return ("cuts", "client-1: 4", "4 blocks", "between 1 and 3")


def tail_over_the_trunk(job: Settings, folder: Path) -> tuple[str, ...]:
    job.update(labels="client", tail_blocks=2)
    return ("tail_blocks", "4 blocks", "between 1 and 1")


def tail_of_all_blocks(job: Settings, folder: Path) -> tuple[str, ...]:
    job.update(labels="client", tail_blocks=3, cuts=1)
    return ("tail_blocks", "4 blocks", "lower")


def length_beyond_positions(job: Settings, folder: Path) -> tuple[str, ...]:
    job["max_length"] = 129
    return ("max_length", "129", "128")


def cuts_for_other_sites(job: Settings, folder: Path) -> tuple[str, ...]:
    job["data_files"] = dict.fromkeys(("north", "south"), job["data_files"])
    job["cuts"] = [1, 2, 3]
    del job["clients"]
    return ("cuts", "3", "2 clients", "north")


def rank_at_the_cut(job: Settings, folder: Path) -> tuple[str, ...]:
    job["lora_r_cut"] = 5
    return ("lora_r_cut", "lora_r (4)")


def unknown_key(job: Settings, folder: Path) -> tuple[str, ...]:
    job["learning_rat"] = 0.1
    return ("learning_rat", "learning_rate")


def wrong_type(job: Settings, folder: Path) -> tuple[str, ...]:
    job["rounds"] = "many"
    return ("rounds", "many")


def several_at_once(job: Settings, folder: Path) -> tuple[str, ...]:
    job.update(rounds=0, epochs=3, lora_alpha="x")
    return ("rounds", "epochs", "lora_alpha")


def missing_file(job: Settings, folder: Path) -> tuple[str, ...]:
    job["data_files"] = str(folder / "no-rows.txt")
    return ("no-rows.txt",)


def unreadable_file(job: Settings, folder: Path) -> tuple[str, ...]:
    (folder / "bad.parquet").write_bytes(b"\x00\xff\xfenot parquet")
    job["data_files"] = str(folder / "bad.parquet")
    return ("bad.parquet",)


def wrong_column(job: Settings, folder: Path) -> tuple[str, ...]:
    (folder / "rows.jsonl").write_text('{"body": "a law"}\n' * 9, encoding="utf-8")
    job["data_files"] = str(folder / "rows.jsonl")
    return ("text", "body")


def empty_client(job: Settings, folder: Path) -> tuple[str, ...]:
    (folder / "empty.txt").write_text("", encoding="utf-8")
    job["data_files"] = {"north": job["data_files"], "south": str(folder / "empty.txt")}
    return ("south", "min_rows")


def more_clients_than_rows(job: Settings, folder: Path) -> tuple[str, ...]:
    job.update(clients=50, partition={"method": "iid"})
    return ("50", "rows")


def adapter_of_another_model(job: Settings, folder: Path) -> tuple[str, ...]:
    from peft import LoraConfig, get_peft_model

    other = get_peft_model(tiny_model("llama"), LoraConfig(r=4, target_modules=["q_proj"]))
    other.save_pretrained(str(folder / "other"))
    job["adapter_name_or_path"] = str(folder / "other")
    return ("other", "transformer.h.0")


def adapter_that_is_not_there(job: Settings, folder: Path) -> tuple[str, ...]:
    job["adapter_name_or_path"] = str(folder / "nothing")
    return ("nothing", "adapter_config.json")


def unknown_target(job: Settings, folder: Path) -> tuple[str, ...]:
    job["lora_target_modules"] = ["q_proj"]
    return ("lora_target_modules", "q_proj", "c_attn")


def output_below_a_file(job: Settings, folder: Path) -> tuple[str, ...]:
    (folder / "file").write_text("mine", encoding="utf-8")
    job["output_dir"] = str(folder / "file" / "out")
    return ("output_dir", "file")


def output_that_is_a_file(job: Settings, folder: Path) -> tuple[str, ...]:
    (folder / "file").write_text("mine", encoding="utf-8")
    job["output_dir"] = str(folder / "file")
    return ("output_dir", "file")


def output_where_nobody_writes(job: Settings, folder: Path) -> tuple[str, ...]:
    job["output_dir"] = "/proc/splitft"
    return ("output_dir", "/proc/splitft")


def output_of_another_run(job: Settings, folder: Path) -> tuple[str, ...]:
    out = Path(job["output_dir"])
    (out / "adapter").mkdir(parents=True)
    (out / "history.jsonl").write_text('{"round": 0}\n', encoding="utf-8")
    (out / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    return ("output_dir", "history.jsonl", "output_dir=")


CASES: dict[Callable[[Settings, Path], tuple[str, ...]], int] = {
    missing_model: 4,
    folder_that_is_no_model: 4,
    pickled_weights: 4,
    weights_cut_short: 4,
    broken_config: 4,
    no_tokenizer: 4,
    tokenizer_of_another_model: 4,
    model_of_another_kind: 4,
    unknown_attention: 4,
    cut_at_the_end: 2,
    tail_over_the_trunk: 2,
    tail_of_all_blocks: 2,
    length_beyond_positions: 2,
    cuts_for_other_sites: 2,
    rank_at_the_cut: 2,
    unknown_key: 2,
    wrong_type: 2,
    several_at_once: 2,
    missing_file: 3,
    unreadable_file: 3,
    wrong_column: 3,
    empty_client: 3,
    more_clients_than_rows: 3,
    adapter_of_another_model: 4,
    adapter_that_is_not_there: 4,
    unknown_target: 4,
    output_below_a_file: 5,
    output_that_is_a_file: 5,
    output_where_nobody_writes: 5,
    output_of_another_run: 5,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_message_and_the_documented_code_and_nothing_written(
    case: Callable[[Settings, Path], tuple[str, ...]],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = case(settings, tmp_path)
    job, before = write_job(settings, tmp_path), hashes(tmp_path)
    monkeypatch.setattr("sys.argv", ["splitft", "run", str(job)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == CASES[case]
    assert_one_message(capsys.readouterr().err, wanted)
    after = hashes(tmp_path)
    after.pop("job.yaml"), before.pop("job.yaml")
    assert {path for path, digest in after.items() if path not in before and digest} == set()
    assert {path: after.get(path) for path in before} == before
    assert {path for path in after if path not in before} <= {"out"}  # an empty folder at most


def test_the_good_job_that_the_cases_spoil_runs(settings: Settings, tmp_path: Path) -> None:
    result = run(Job(**settings), console=Console(quiet=True))
    assert len(result.history) == 2
    assert load_file(result.adapter_path / "adapter_model.safetensors")


@pytest.mark.parametrize("case", [unreadable_file, output_of_another_run], ids=lambda case: case.__name__)
def test_a_real_process_ends_the_same_way(
    case: Callable[[Settings, Path], tuple[str, ...]], settings: Settings, tmp_path: Path
) -> None:
    wanted = case(settings, tmp_path)
    job = write_job(settings, tmp_path)
    before = hashes(tmp_path)
    done = run_command("run", job)
    assert done.returncode == CASES[case]
    assert_one_message(done.stderr, wanted)
    after = hashes(tmp_path)
    assert {path: after[path] for path in before} == before
    assert {path for path in after if path not in before} <= {"out"}

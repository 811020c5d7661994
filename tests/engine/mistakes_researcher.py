"""Mistakes of a researcher who is new to the tool: keys, names, models, folders of runs, commands."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from mistakes import Mistake, empty_folder, m
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from tiny import save_tiny_model, save_to, tiny_model


def copied_model(job: dict[str, Any], folder: Path) -> Path:
    job["model_name_or_path"] = str(shutil.copytree(job["model_name_or_path"], folder / "copy"))
    return folder / "copy"


def pickled_weights(job: dict[str, Any], folder: Path) -> None:
    copy = copied_model(job, folder)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()


def weights_cut_short(job: dict[str, Any], folder: Path) -> None:
    weights = copied_model(job, folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def broken_config(job: dict[str, Any], folder: Path) -> None:
    (copied_model(job, folder) / "config.json").write_text("{", encoding="utf-8")


def no_tokenizer(job: dict[str, Any], folder: Path) -> None:
    for path in copied_model(job, folder).glob("tokenizer*"):
        path.unlink()


def tokenizer_of_another_model(job: dict[str, Any], folder: Path) -> None:
    job["model_name_or_path"] = str(save_tiny_model(folder / "small", "gpt2", vocab_size=40))


def model_of_another_kind(job: dict[str, Any], folder: Path) -> None:
    config = T5Config(vocab_size=320, d_model=16, d_kv=4, d_ff=16, num_layers=4, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(folder / "t5")
    job["model_name_or_path"] = str(save_to(folder / "t5"))


def adapter_of_another_model(job: dict[str, Any], folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    other = get_peft_model(tiny_model("llama"), LoraConfig(r=4, target_modules=["q_proj"]))
    other.save_pretrained(str(folder / "other"))
    job["adapter_name_or_path"] = str(folder / "other")


def adapter_alone(job: dict[str, Any], folder: Path) -> None:
    shutil.copytree(folder / "run" / "adapter", folder / "far" / "tuned")


def no_state(job: dict[str, Any], folder: Path) -> None:
    shutil.rmtree(folder / "run" / "checkpoints")


def another_run(job: dict[str, Any], folder: Path) -> None:
    (folder / "out" / "adapter").mkdir(parents=True)
    (folder / "out" / "history.jsonl").write_text('{"round": 0}\n', encoding="utf-8")
    (folder / "out" / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")


RESEARCHER: dict[str, Mistake] = {
    # Keys
    "a misspelt key": m(2, "learnin_rate | did you mean learning_rate?", learnin_rate=1e-3),
    "a misspelt key after the job": m(
        2, "partition.alfa | did you mean alpha?", "run {job} partition.alfa=0.1"
    ),
    "a key of another group": m(2, "alpha | partition.alpha", "run {job} alpha=0.1"),
    "a short name": m(2, "lr: set learning_rate", "run {job} lr=1e-3"),
    "a key as an option": m(
        2, "no option --learning-rate | written learning_rate=VALUE", "run {job} --learning-rate 1e-3"
    ),
    "a number in quotes": m(2, "lora_r: must be an integer | '8'", "run {job} lora_r=\"8\""),
    "text for a number": m(2, "rounds: must be an integer | 'ten'", rounds="ten"),
    "a list for a number": m(2, "rounds: must be an integer | not a list", rounds=[3]),
    "yes for true": m(2, "bf16: must be true or false | 'yes'", bf16="yes"),
    "a percentage": m(2, "eval_fraction: must be a number | '10%'", "run {job} eval_fraction=10%"),
    "a text for a group": m(2, "partition: must be a mapping | 'dirichlet'", partition="dirichlet"),
    "spaces around the sign": m(2, "rounds = 3: write rounds=3, without spaces", "run {job} rounds = 3"),
    "a negative rank": m(2, "lora_r: must be an integer ≥ 1, not -4", lora_r=-4),
    "a rank at the cut above the rank": m(2, "lora_r_cut | lora_r (4)", lora_r_cut=5),
    "a negative rate": m(2, "learning_rate: must be a number > 0", learning_rate=-1.0),
    "no clients": m(2, "clients: must be an integer ≥ 1, not 0", clients=0),
    "more clients a round than clients": m(2, "9 is more than clients (2)", clients_per_round=9),
    "half precision of another kind": m(2, "fp16: set bf16: true", fp16=True),
    "two types": m(2, "float32 contradicts bf16: true", bf16=True, dtype="float32"),
    "all steps, as in transformers": m(2, "max_steps: must be an integer ≥ 1 or null", max_steps=-1),
    "steps that are no rounds": m(
        2, "max_steps: 25 is no whole number of rounds | set 20 or 30", max_steps=25, local_steps=10
    ),
    "steps and epochs": m(2, "max_steps or num_train_epochs, not both", max_steps=2, num_train_epochs=1),
    "keys of run_clm": m(
        2, "train_file: set data_files | validation_file: set eval_files | block_size: set max_length",
        train_file="a.txt", validation_file="b.txt", block_size=64, lines=4,
    ),
    "keys of axolotl": m(
        2, "base_model: set model_name_or_path | datasets: set dataset_name or data_files",
        base_model="gpt2", datasets=[], lines=3,
    ),
    "several at once": m(
        2, "3 problems | rounds | epochs | lora_alpha", rounds=0, epochs=3, lora_alpha="x", lines=4
    ),
    "packed rows in chunks": m(
        2, "truncation_mode | packing keeps all tokens", packing=True, truncation_mode="chunk"
    ),
    "the end of long rows, as TRL has it": m(2, "keep_start, chunk", truncation_mode="keep_end"),
    # Names
    "a misspelt method": m(2, "no method is called splitfd; did you mean splitft?", method="splitfd"),
    "a misspelt optimizer": m(2, "optim: no optimizer is called adamw", optim="adamw_hf"),
    "a misspelt codec": m(2, "codec: no codec is called int5; did you mean int8?", codec="int5"),
    "a misspelt tracker": m(2, "report_to | did you mean tensorboard?", report_to="tensorbord"),
    "a misspelt recipe": m(2, "no file quikstart, nor a recipe | `splitft new` lists", "run quikstart"),
    "a copy of a misspelt recipe": m(2, "did you mean quickstart?", "new quikstart {folder}/mine.yaml"),
    "a plugin that is not there": m(2, "--plugin", "run {job} --plugin {folder}/mine.py"),
    "a plugin that is no Python": m(
        2, "mine.py: SyntaxError", "run {job} --plugin {folder}/mine.py", files={"mine.py": "def x(:\n"}
    ),
    # Job files
    "a tab in yaml": m(
        2, "not valid YAML: line 2, column 1", "run {folder}/tab.yaml",
        files={"tab.yaml": "partition:\n\tmethod: iid\n"},
    ),
    "a key without a space": m(
        2, "not a job | `key: value` lines", "run {folder}/a.yaml", files={"a.yaml": "rounds:3\n"}
    ),
    "a key twice": m(
        2, "rounds: given twice, on lines 3 and 4", "run {folder}/a.yaml",
        files={"a.yaml": "model_name_or_path: m\ndata_files: a.txt\nrounds: 3\nrounds: 4\n"},
    ),
    "a list for a job": m(
        2, "a list, not a mapping", "run {folder}/a.yaml", files={"a.yaml": "- rounds: 3\n"}
    ),
    "JSON cut short": m(2, "not valid YAML", "run {folder}/a.json", files={"a.json": '{"rounds": 3,\n'}),
    "an empty job": m(2, "the file is empty", "run {folder}/a.yaml", files={"a.yaml": ""}),
    "a folder for a job": m(2, "cannot read | Is a directory", "run {folder}"),
    # The model and its parts
    "a model that is not there": m(4, "no-model", model_name_or_path="{folder}/no-model"),
    "a folder that is no model": m(
        4, "empty | config.json", make=empty_folder, model_name_or_path="{folder}/empty"
    ),
    "pickled weights": m(4, "copy | safetensors", make=pickled_weights),
    "weights cut short": m(4, "copy", make=weights_cut_short),
    "a broken config.json": m(4, "copy | config.json", make=broken_config),
    "a model without a tokenizer": m(4, "copy | tokenizer", make=no_tokenizer),
    "the tokenizer of another model": m(4, "small | tokenizer | 39", make=tokenizer_of_another_model),
    "a model that is no decoder": m(4, "t5", make=model_of_another_kind),
    "an unknown attention": m(4, "nonsense", attn_implementation="nonsense"),
    "an unknown target": m(4, "q_proj | c_attn", lora_target_modules=["q_proj"]),
    "an adapter that is not there": m(
        4, "nothing | adapter_config.json", adapter_name_or_path="{folder}/nothing"
    ),
    "a run for an adapter": m(4, "no PEFT adapter | name | run/adapter", adapter_name_or_path="{run}"),
    "an adapter of another model": m(4, "other | transformer.h.0", make=adapter_of_another_model),
    "a cut at the end": m(2, "client-1: 4 | 4 blocks | between 1 and 3", cuts=[1, 4]),
    "cuts in quotes": m(2, "cuts: must be an integer ≥ 1 or a list | '2'", cuts="2"),
    "a tail over the trunk": m(
        2, "tail_blocks | 4 blocks | between 1 and 1", labels="client", tail_blocks=2
    ),
    "a tail of all blocks": m(
        2, "tail_blocks | 4 blocks | lower", labels="client", tail_blocks=3, cuts=1
    ),
    "rows longer than the model": m(2, "max_length | 129 | 128", max_length=129),
    "a plan of no job": m(2, "no file", "plan {folder}/none.yaml"),
    # Folders of runs
    "the folder of a finished run": m(
        5, "already holds a run | extend it (rounds=MORE --resume) | output_dir=", output_dir="{run}"
    ),
    "a folder that another program made": m(5, "history.jsonl | output_dir=", make=another_run),
    "a folder in use": m(5, "in use by process", output_dir="{busy}"),
    "a file for a folder": m(
        5, "output_dir | choose another", files={"file": "mine"}, output_dir="{folder}/file"
    ),
    "a folder below a file": m(
        5, "output_dir | file", files={"file": "mine"}, output_dir="{folder}/file/out"
    ),
    "a folder where nobody may write": m(
        5, "/proc/mine cannot be written | choose another", output_dir="/proc/mine"
    ),
    "a resumption with fewer rounds": m(
        2, "is of 2 rounds | now asks for 1 | rounds=2 or more", "run {job} --resume",
        output_dir="{run}", rounds=1,
    ),
    "a resumption with another rank": m(
        2, "another job (lora_r: 4, now 8) | job.yaml --resume", "run {job} --resume",
        output_dir="{run}", rounds=2, lora_r=8,
    ),
    "a resumption by a key": m(
        2, "give --resume to `splitft run`", "run {job} resume_from_checkpoint=true"
    ),
    "an extension without a state": m(
        5, "has kept no state | adapter_name_or_path=", "run {job} --resume",
        make=no_state, output_dir="{run}", rounds=3,
    ),
    # Other commands
    "a recipe copied over a file": m(5, "is there already | name another", "new quickstart {job}"),
    "an export of no run": m(
        2, "holds no adapter; give the output_dir of a run", "export {folder}/empty", make=empty_folder
    ),
    "an export over a folder": m(5, "exists already | another folder", "export {run} {run}/adapter"),
    "a report of an empty folder": m(2, "empty", "report {folder}/empty", make=empty_folder),
    "a comparison of a job with itself": m(2, "nothing to compare | --vary", "compare {job}"),
    "a comparison of rounds in no list": m(
        2, "rounds | nothing was started", "compare {job} --vary rounds=2"
    ),
    "an evaluation of nothing": m(2, "give --tasks", "evaluate {run}"),
    "an evaluation of no run": m(
        2, "holds no run (job.yaml)", "evaluate {folder}/empty --tasks arc", make=empty_folder
    ),
    "generation from an adapter alone": m(
        2, "give --data FILE", "evaluate {folder}/far/tuned --generate",
        make=adapter_alone, output_dir="{run}",
    ),
    "generation from plain text": m(3, "give rows of prompt and completion", "evaluate {run} --generate"),
    "an evaluation without its extra": m(
        2, "splitft[eval]", "evaluate {run} --tasks arc_easy", without=("lm_eval",)
    ),
    "a tracker without its extra": m(
        2, "splitft[trackio]", report_to="trackio", without=("trackio",)
    ),
}  # fmt: skip

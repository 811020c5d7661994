"""Twelve jobs that cover every mode of tests/invariant, and how each is run by a checkout's command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchlib.checkouts import Checkout, free_port, run_commands, settings_for
from benchlib.tiny_inputs import GPT2_TARGETS, LLAMA_TARGETS

Settings = dict[str, Any]


@dataclass(frozen=True)
class SameJob:
    """A job that both checkouts run.

    runs: The settings of its runs, one after another, by the names of their folders.
    recipe: The recipe that the settings change; "" for none.
    failpoint: The place at which each run is killed, before `--resume` goes on; "" for none.
    network: Whether each run has a server and a process for every client of `data_files`, with mTLS; and an
        aggregator, where the settings have `network.aggregator`, whose port is replaced by a free one.
    """

    runs: Mapping[str, Settings]
    recipe: str = ""
    failpoint: str = ""
    network: bool = False


# Keys whose defaults may differ between versions are stated in every job.
STATED: Settings = {
    "padding_free": False, "micro_batches": 1, "server_batch_tokens": 0, "max_staleness": 0, "codec": "none",
    "gradient_checkpointing": False, "loss_chunk_tokens": 128, "group_by_length": False, "train_front": True,
    "robust_aggregation": "norm_clip", "order": "parallel", "server_adapter": "per_client",
    "labels": "server", "privacy": "server_reads", "aggregation": "by_rank", "use_cpu": True, "seed": 42,
}  # fmt: skip

# Devices so slow, and so different, that the paper's policy moves cuts of a tiny model.
DEVICES: Settings = {
    "devices": ["slowest", "slow", "fast", "fastest"], "server_device": "fast",
    "device_profiles": {
        name: {"preset": "laptop", "flops": 1e6 * speed, "availability": 1.0}
        for name, speed in {"slowest": 1, "slow": 2, "fast": 4, "fastest": 8}.items()
    },
}  # fmt: skip
PAPERS_POLICY: Settings = {
    "method": "splitft", "gamma": 20.0, "w_min": 0.1, "w_max": 5.0, "hysteresis": 0.0, "max_step": 5
}  # fmt: skip


def schedule(**cuts: int | list[int]) -> Settings:
    """Return a cut policy: r1=2, r3=[1, 3, 2] are the cuts from rounds 1 and 3 on."""
    return {"method": "schedule", "schedule": {round_[1:]: value for round_, value in cuts.items()}}


def same_jobs(inputs: Path) -> dict[str, SameJob]:
    """Return the jobs by their names. inputs: the folder of `write_inputs`."""
    skewed = {"method": "length_dirichlet", "alpha": 0.5, "min_rows": 4}
    llama = STATED | {
        "model_name_or_path": str(inputs / "llama"), "adapter_name_or_path": str(inputs / "adapter"),
        "data_files": str(inputs / "rows.txt"), "partition": skewed, "max_length": 64, "max_eval_samples": 12,
        "lora_r": 4, "lora_alpha": 8, "lora_target_modules": LLAMA_TARGETS, "learning_rate": 5e-3,
        "weight_decay": 0.01, "max_grad_norm": 0.5, "lr_scheduler_type": "linear", "warmup_steps": 2,
        "per_device_train_batch_size": 3, "clients": 3, "cuts": [1, 3, 2], "rounds": 3, "local_steps": 2,
    }  # fmt: skip
    new = llama | {"adapter_name_or_path": None}
    gpt2 = new | {"model_name_or_path": str(inputs / "gpt2"), "lora_target_modules": GPT2_TARGETS}
    files = {name: str(inputs / f"{name}.txt") for name in ("anna", "bert", "carl")}
    by_file = {"data_files": files, "partition": {"method": "files"}, "cuts": [1, 2, 2]}
    by_site = {
        "data_files": str(inputs / "sites.jsonl"), "partition": {"method": "by_column", "column": "site"}
    }  # fmt: skip
    mixed_sites = by_site | {"partition": {"method": "dirichlet", "column": "site", "min_rows": 4}}
    pairs = {"data_files": str(inputs / "pairs.jsonl"), "partition": {"method": "iid"}}
    tail = {"labels": "client", "tail_blocks": 1}
    four = {"clients": 4, "cuts": [2, 3, 3, 4]}
    baseline = llama | {"devices": "laptop", "gradient_accumulation_steps": 2, "lora_dropout": 0.1}
    two = {"data_files": {name: files[name] for name in ("anna", "bert")}, "cuts": [1, 2], "clients": 2}
    net = llama | by_file | two | {"network": {"clients": ["anna", "bert"]}, "local_steps": 3}
    return {
        "recipe": SameJob({"run": STATED | {"rounds": 2}}, recipe="study-smollm2"),
        "per_client": SameJob({"run": gpt2 | mixed_sites | {
            "gradient_accumulation_steps": 2, "lora_r_cut": 2, "devices": "laptop", "clients_per_round": 2,
            "rounds": 4, "eval_every": 2,
        }}),
        "turns": SameJob({"run": llama | {
            "order": "turns", "server_adapter": "shared", "aggregation": "freeze_a", "codec": "int8",
            "lora_dropout": 0.1, "lora_r_cut": 2, "devices": "laptop", "max_grad_norm": 0.1,
            "cut_policy": schedule(r1=[1, 3, 2], r2=[3, 1, 4], r3=1),
        }}),
        "labels_at_home": SameJob({"run": new | tail | {
            "codec": "int4", "gradient_codec": "int2", "eval_codec": "int8", "micro_batches": 2,
            "aggregation": "average", "lora_r_cut": 2, "cut_policy": schedule(r1=2, r2=4, r3=[1, 2, 3]),
        }}),
        "moving_cuts": SameJob({"run": llama | DEVICES | four | {
            "cut_policy": PAPERS_POLICY, "lora_r_cut": 2, "lora_r_cut_side": "client", "aggregation": "exact",
            "lr_scheduler_type": "cosine", "rounds": 4,
        }}),
        "delta": SameJob({"run": llama | by_file | {
            "codec": "delta", "max_staleness": 1, "micro_batches": 2, "activation_cache_gb": 1e-4,
            "local_steps": 5, "robust_aggregation": "median",
        }}),
        "frozen_front": SameJob({"run": new | by_site | {
            "train_front": False, "codec": "int8", "max_staleness": 2, "micro_batches": 3, "local_steps": 4,
            "lr_scheduler_type": "constant", "warmup_steps": 0, "clients": 3, "cuts": [1, 2, 2],
        }}),
        "padding_free": SameJob({"run": new | pairs | {
            "padding_free": True, "bf16": True, "codec": "bf16", "micro_batches": 2, "lora_r_cut": 2,
            "gradient_checkpointing": True, "per_device_train_batch_size": 4, "server_adapter": "shared",
        }}),
        "server_batches": SameJob({"run": new | {
            "server_batch_tokens": 9999, "gradient_accumulation_steps": 2, "lora_dropout": 0.3,
            "packing": True, "group_by_length": True, "robust_aggregation": "trimmed_mean",
        }}),
        "baselines": SameJob({
            method: baseline | {"method": method}
            for method in ("fed_lora", "local_only", "centralized", "same_split")
        }),
        "resumed": SameJob({"run": llama | DEVICES | four | {
            "cut_policy": PAPERS_POLICY, "lora_r_cut": 2, "aggregation": "exact", "lora_dropout": 0.1,
            "order": "turns", "rounds": 4, "save_every": 1,
        }}, failpoint="server.step:34:kill"),
        "network": SameJob({
            "labels_at_server": net | {
                "codec": "int8", "gradient_codec": "int4", "micro_batches": 2, "max_staleness": 1,
            },
            "labels_at_home": net | tail | {
                "server_adapter": "shared", "codec": "int4", "lora_r_cut": 2, "lora_dropout": 0.1,
                "cut_policy": schedule(r1=[1, 2], r2=[3, 1]),
                "network": {"clients": ["anna", "bert"], "aggregator": "127.0.0.1:1"},
            },
        }, network=True),
    }  # fmt: skip


def run_job(checkout: Checkout, job: SameJob, folder: Path, changes: Mapping[str, Any]) -> float:
    """Run a job's runs with a checkout, each into a folder of its own; return the seconds taken.

    changes: settings on top of the job's. Raises CommandError.
    """
    seconds = 0.0
    for name, stated in job.runs.items():
        own = folder / name
        own.mkdir(parents=True)
        settings = {**stated, **changes, "output_dir": str(own / "run")}
        if job.network:
            seconds += _run_network(checkout, settings, own)
            continue
        settings = settings_for(checkout, settings)
        command = ["run", *_job_arguments(job.recipe, settings, own)]
        if job.failpoint:
            seconds += run_commands(checkout, {"killed": command}, own, failpoint=job.failpoint).seconds
            command.append("--resume")
        seconds += run_commands(checkout, {"log": command}, own).seconds
    return seconds


def _job_arguments(recipe: str, settings: Mapping[str, Any], folder: Path) -> list[str]:
    if recipe:
        return [recipe, *(f"{key}={json.dumps(value)}" for key, value in settings.items())]
    path = folder / "job.yaml"
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")  # JSON is YAML
    return [str(path)]


def _run_network(checkout: Checkout, settings: Settings, folder: Path) -> float:
    files, certs = settings["data_files"], folder / "certs"
    network = settings["network"]
    commands = [["init", "localhost"], ["add", *files]]
    if "aggregator" in network:
        settings = {**settings, "network": {**network, "aggregator": f"localhost:{free_port()}"}}
        commands.append(["aggregator", "localhost"])
    seconds = 0.0
    for command in commands:
        arguments = ["certs", *command, "--folder", str(certs)]
        seconds += run_commands(checkout, {"certs": arguments}, folder).seconds
    job, address = _job_arguments("", settings_for(checkout, settings), folder), f"localhost:{free_port()}"
    own = certs / "server" if (certs / "server" / "server.pem").exists() else certs  # an older checkout's
    together = {"server": ["server", *job, "--listen", address, "--certs", str(own)]}
    agreed = ["--accept", "first"] if (checkout / "src/splitft/job/site_policy.py").exists() else []
    for name, file in files.items():
        together[name] = [
            "client", "--server", address, "--name", name, "--data", file,
            "--folder", str(folder / name), "--certs", str(certs / name), *agreed,
        ]  # fmt: skip
    if "aggregator" in network:
        own = ["--folder", str(folder / "aggregator"), "--certs", str(certs / "aggregator")]
        together["aggregator"] = ["aggregator", *job, *own]
    return seconds + run_commands(checkout, together, folder).seconds

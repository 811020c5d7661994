"""The conditions of the figures: model, data, training, devices, versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from splitft.running.private import privacy_text
from splitft.tools.report.groups import Variant
from splitft.tools.report.labels import value_text
from splitft.tools.report.runs import RunFolder
from splitft.tools.report.series import devices_of

MOST_NAMED = 8


def conditions(variants: Sequence[Variant]) -> list[tuple[str, str]]:
    """Return (what, value) pairs; where runs differ, all values that occur."""
    of_runs = [_conditions(run) for variant in variants for run in variant.runs]
    merged = {
        name: "; ".join(dict.fromkeys(filter(None, (own[name] for own in of_runs)))) for name in of_runs[0]
    }
    merged["Seeds"] = ", ".join(map(str, sorted({run.seed for v in variants for run in v.runs})))
    return [(name, value) for name, value in merged.items() if value]


def _conditions(run: RunFolder) -> dict[str, str]:
    job = run.job
    times = job["gradient_accumulation_steps"]
    at_cut = f", lora_r_cut {job['lora_r_cut']}" if job.get("lora_r_cut") else ""
    return {
        "Model": value_text("_path", job["model_name_or_path"]),
        "Data": _data(run),
        "Dealt to clients": _partition(run),
        "Rounds": f"{job['rounds']} of {job['local_steps']} local steps",
        "Batch": f"{job['per_device_train_batch_size']} rows a client" + (f" × {times}" if times > 1 else ""),
        "Optimizer": f"AdamW, learning rate {job['learning_rate']:g}, {job['lr_scheduler_type']} schedule",
        "LoRA": f"lora_r {job['lora_r']}{at_cut}, lora_alpha {job['lora_alpha']:g}",
        "Seeds": "",  # of all runs together
        "Simulated devices": _devices(run),
        "Differential privacy": privacy_text(run.summary),
        "Computed on": str(run.summary.get("device", "")),
        "Versions": ", ".join(f"{name} {n}" for name, n in run.summary.get("versions", {}).items()),
    }


def _data(run: RunFolder) -> str:
    job = run.job
    source = job.get("dataset_name") or job.get("data_files")
    if isinstance(source, dict):
        source = f"{len(source)} files, one a client"
    parts = (job.get("dataset_config_name"), job.get("dataset_revision"))
    named = ", ".join(part for part in parts if part and part != "main")
    config = f" ({named})" if named else ""
    rows = sum(client.get("eval_rows", 0) for client in run.partition.get("clients", ()))
    own_set = run.partition.get("eval_set")
    held = f", {rows:,} rows {f'of {own_set} to evaluate on' if own_set else 'held out'}" if rows else ""
    return f"{value_text('data_files', source)}{config}, at most {job['max_length']} tokens a row{held}"


def _partition(run: RunFolder) -> str:
    method = str(run.job["partition.method"])
    alpha = f" with alpha {run.job['partition.alpha']:g}" if "dirichlet" in method else ""
    return f"{method}{alpha}, {run.job['clients']} clients"


def _devices(run: RunFolder) -> str:
    devices = devices_of(run)
    if not devices:
        return ""
    if len(devices) <= MOST_NAMED:
        clients = ", ".join(f"{name}: {device}" for name, device in devices.items())
    else:
        clients = ", ".join(
            f"{count} × {device}" for device, count in Counter(devices.values()).most_common()
        )
    own = run.job.get("device_profiles") or {}
    profiles = "".join(f"; {name}: {_profile(profile)}" for name, profile in own.items())
    return f"{clients}; server: {run.job['server_device']}{profiles}"


def _profile(profile: Any) -> str:
    if not isinstance(profile, dict):
        return str(profile)
    return ", ".join(f"{key} {value_text(key, value)}" for key, value in profile.items() if value is not None)

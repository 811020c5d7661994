"""The jobs that are fuzzed, on one tiny model."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from reference import make_setting
from splitft import Job
from splitft.running.methods import with_method
from splitft.running.model import split_model
from splitft.running.prepare import Assembly, assemble
from splitft.wire.codecs.registry import network_job

QUIET = Console(quiet=True)
NAMES = ("anna", "bert")  # anna is hostile to servers, and is who a hostile server has to do with
BLOCKS = 3
BASE: dict[str, Any] = {
    "clients": 2, "cuts": 1, "rounds": 2, "local_steps": 2, "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2, "max_eval_samples": 3, "eval_every": 2, "labels": "server",
    "server_batch_tokens": "off", "micro_batches": "off", "warmup_steps": 0,
    "max_length": 12, "lora_r": 2, "lora_alpha": 4, "lora_target_modules": ["q_proj", "v_proj"],
    "adapter_name_or_path": None,
    "network": {"clients": list(NAMES)},
}  # fmt: skip
AGGREGATOR, MASKED, PRIVATE = "aggregator", "masked", "private"
OF_A_SUM = (*NAMES, "cleo", "dora")  # one of them may be expelled
TAIL = {"labels": "client", "tail_blocks": 1}


@dataclass(frozen=True, eq=False)
class Mode:
    """A kind of job. cuts: of all clients, by round; the last one stays. names: of the clients."""

    name: str
    settings: Mapping[str, Any]
    cuts: tuple[int, ...] = (1,)
    names: tuple[str, ...] = NAMES

    @property
    def start(self) -> Assembly:
        """What a server of this job starts from."""
        return _assembly(self.name)

    @property
    def job(self) -> Job:
        return self.start.job

    def cut_of(self, round_: int) -> int:
        return self.cuts[min(round_, len(self.cuts) - 1)]


MODES = {
    mode.name: mode
    for mode in (
        Mode(
            "server labels",
            {"server_evaluates": False, "gradient_accumulation_steps": 2, "local_steps": 1},
        ),
        Mode("client labels", {**TAIL, "metrics": ["top5_accuracy"]}),
        Mode("server evaluates", {"codec": "int8"}),
        Mode("moving cuts", {"cuts": [1, 2], "codec": "int4", "lora_r_cut": 1}, cuts=(1, 2, 1)),
        Mode("shared", {**TAIL, "server_adapter": "shared", "cuts": 1}),
        Mode("frozen", {"train_front": False, "codec": "int8", "activation_cache_gb": 0.001}),
        Mode("delta", {"codec": "delta", "activation_cache_gb": 0.001}),
        Mode("stale", {"max_staleness": 1, "micro_batches": 2}),
        Mode(AGGREGATOR, {"network": {"clients": list(NAMES), "aggregator": "127.0.0.1:1"}}),
        Mode("whole models", {"method": "fed_lora"}, cuts=(BLOCKS,)),
        Mode(
            MASKED,
            {
                "method": "fed_lora", "secure_aggregation": True, "robust_aggregation": "none",
                "privacy": "sum_only", "clients": len(OF_A_SUM), "network": {"clients": list(OF_A_SUM)},
            },
            cuts=(BLOCKS,),
            names=OF_A_SUM,
        ),
        Mode(PRIVATE, {"method": "fed_lora", "dp": {"epsilon": 8.0, "delta": 0.001}}, cuts=(BLOCKS,)),
    )
}  # fmt: skip
OTHER_ADAPTERS = ("frozen", "whole models", MASKED, PRIVATE)  # than the other jobs


@cache
def folder() -> Path:
    """Return a folder of this process, with the tiny model and its data."""
    path = Path(tempfile.mkdtemp(prefix="splitft-fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def _setting() -> dict[str, Any]:
    return make_setting(folder(), "llama", num_hidden_layers=BLOCKS, hidden_size=16)


@cache
def data() -> Path:
    """Return the file with a client's rows."""
    return Path(_setting()["data_files"])


def _job_of(name: str) -> Job:
    mode = MODES[name]
    settings = {**_setting(), **BASE, **mode.settings, "output_dir": str(folder() / "run")}
    return network_job(with_method(Job(**settings)))


@cache
def _proven() -> Assembly:
    return assemble(_job_of("server labels"), QUIET, elsewhere=list(NAMES))


@cache
def _assembly(name: str) -> Assembly:
    """Return a job's start, with the model of the one that was proven where its adapters are the same."""
    if name in OTHER_ADAPTERS:
        return assemble(_job_of(name), QUIET, elsewhere=list(MODES[name].names))
    proven, job = _proven(), _job_of(name)
    slots, inputs = proven.split_model.slots, proven.report.server_inputs
    model = split_model(job, proven.model, slots, inputs, "whole")
    return replace(proven, job=job, split_model=model, cuts=dict.fromkeys(NAMES, MODES[name].cuts[0]))

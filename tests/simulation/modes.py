"""The jobs that are simulated. strict: whatever happens, the bits are those of the undisturbed run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from splitft import Job

BASE: dict[str, Any] = {
    "clients": 2, "rounds": 2, "local_steps": 2, "eval_every": 2, "optim": "sgd", "max_grad_norm": 0.0,
    "lora_r": 1, "lora_alpha": 1, "codec": "none", "labels": "server", "cuts": [1, 2],
    "privacy": "server_reads",
    "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "output_dir": "run",
    "padding_free": False, "max_eval_samples": None,
    "server_batch_tokens": "off", "micro_batches": "off", "model_name_or_path": "builtin:smollm2-135m",
    "dataset_name": "builtin:sotu", "server_evaluates": False,
}  # fmt: skip
TAIL = {"labels": "client", "tail_blocks": 1}
SHARED = {"server_adapter": "shared"}
WHOLE: dict[str, Any] = {"method": "fed_lora", "cuts": 1}
MASKED: dict[str, Any] = {
    **WHOLE, "clients": 3, "secure_aggregation": True, "robust_aggregation": "none", "privacy": "sum_only",
}  # fmt: skip
RARELY: dict[str, Any] = {"save_every": 3, "rounds": 4, "eval_every": 1, "local_steps": 1}
PRIVATE: dict[str, Any] = {**WHOLE, "dp": {"epsilon": 8.0, "delta": 0.01}, "padding_free": False}


@dataclass(frozen=True)
class Mode:
    """A kind of job.

    Attributes:
        strict: Whatever happens, the bits are those of the undisturbed run.
        cuts: Of the clients, by round; the last ones stay. A real job's schedule of cuts moves them.
        slow: Parties take their time.
        real: A model computes, and no numbers.
    """

    name: str
    settings: Mapping[str, Any]
    strict: bool = True
    cuts: tuple[tuple[int, ...], ...] = ()
    slow: bool = False
    aggregator: bool = False
    real: bool = False

    @property
    def job(self) -> Job:
        return _job(self.name)

    def cuts_of(self, round_: int) -> dict[str, int]:
        """Return the cuts of a round."""
        given = self.cuts or (tuple(self.job.cuts),)  # type: ignore[arg-type]
        return dict(zip(self.names, given[min(round_, len(given) - 1)], strict=True))

    @property
    def names(self) -> list[str]:
        return [f"client-{i}" for i in range(self.job.clients)]


AGGREGATOR = {"aggregator": "127.0.0.1:1"}
MODES = {
    mode.name: mode
    for mode in (
        Mode("server labels", {}),
        Mode("client labels", {**TAIL, "gradient_accumulation_steps": 2, "local_steps": 1}),
        Mode("server evaluates", {"server_evaluates": True}),
        Mode("shared", SHARED),
        Mode("shared, client labels", {**SHARED, **TAIL}),
        Mode("together", {"server_batch_tokens": 64, "clients": 3, "cuts": [1, 2, 1], "local_steps": 1}),
        Mode("stale", {"max_staleness": 1}),
        Mode("in turns", {"order": "turns"}),
        Mode("moving cuts", {"rounds": 3, "local_steps": 1}, cuts=((1, 2), (1, 2), (2, 1), (3, 1))),
        Mode("moving cuts, shared", {**SHARED, **TAIL, "local_steps": 1}, cuts=((1, 2), (2, 1), (1, 2))),
        Mode("frozen", {"train_front": False, "codec": "int8", "activation_cache_gb": 0.001}),
        Mode("delta", {"codec": "delta"}),
        Mode("rarely saved", {**RARELY, "server_evaluates": True}),
        Mode("rarely saved, sampled", {**RARELY, "clients": 3, "cuts": [1, 2, 1], "clients_per_round": 2}),
        Mode("rarely saved, moving cuts", {**RARELY, **TAIL}, cuts=((1, 2), (1, 2), (2, 1), (3, 1), (1, 2))),
        Mode("aggregator", {"network": AGGREGATOR}, aggregator=True),
        Mode("aggregator, shared", {**SHARED, "network": AGGREGATOR}, aggregator=True),
        Mode(
            "rejoin", {"clients": 3, "cuts": [1, 2, 1], "network": {"min_clients": 1, "rejoin_seconds": 2.0}},
            strict=False,
        ),
        Mode(
            "rejoin, shared",
            {**SHARED, "clients": 3, "cuts": [1, 2, 1], "network": {"min_clients": 2, "rejoin_seconds": 2.0}},
            strict=False,
        ),
        Mode(
            "rejoin, in turns",
            {"order": "turns", "clients": 3, "cuts": [1, 2, 1],
             "network": {"min_clients": 1, "rejoin_seconds": 2.0}},
            strict=False,
        ),
        Mode(
            "rejoin, sampled",
            {"clients_per_round": 3, "clients": 4, "cuts": [1, 2, 1, 2], "local_steps": 1,
             "network": {"min_clients": 2, "rejoin_seconds": 2.0}},
            strict=False,
        ),
        Mode(
            "stragglers",
            {"clients": 3, "cuts": [1, 2, 1], "network": {"min_clients": 2, "round_seconds": 3.0}},
            strict=False, slow=True,
        ),
        Mode(
            "stragglers, shared",
            {**SHARED, "clients": 3, "cuts": [1, 2, 1],
             "network": {"min_clients": 1, "round_seconds": 3.0, "rejoin_seconds": 4.0}},
            strict=False, slow=True,
        ),
        Mode("whole models", {**WHOLE, "gradient_accumulation_steps": 2}, cuts=((4, 4),)),
        Mode("whole models, aggregator", {**WHOLE, "network": AGGREGATOR}, cuts=((4, 4),), aggregator=True),
        Mode(
            "whole models, stragglers",
            {**WHOLE, "clients": 3, "labels": "client",
             "network": {"min_clients": 2, "round_seconds": 3.0, "rejoin_seconds": 2.0}},
            cuts=((4, 4, 4),), strict=False, slow=True,
        ),
    )
}  # fmt: skip


REAL_BASE: dict[str, Any] = {
    **BASE, "optim": "adamw_torch", "max_grad_norm": 0.5, "weight_decay": 0.01, "learning_rate": 5e-3,
    "lora_r": 2, "lora_alpha": 4, "lora_target_modules": ["q_proj", "v_proj"], "max_length": 6,
    "use_cpu": True, "server_evaluates": None,
}  # fmt: skip


def schedule(cuts: Mapping[int, list[int]]) -> dict[str, Any]:
    """Return the settings of a job whose cuts move before these rounds."""
    return {"cut_policy": {"method": "schedule", "schedule": {str(r): c for r, c in cuts.items()}}}


REAL = {
    mode.name: mode
    for mode in (
        Mode("real", {"lora_dropout": 0.2, "gradient_accumulation_steps": 2, "local_steps": 1}),
        Mode("real, client labels, int8", {**TAIL, "codec": "int8"}),
        Mode("real, shared", {**SHARED, "codec": "int4", "padding_free": True}),
        Mode("real, shared, client labels", {**SHARED, **TAIL, "optim": "sgd", "optim_args": "momentum=0.9"}),
        Mode("real, moving cuts", {"rounds": 3, "local_steps": 1, **schedule({2: [2, 1], 3: [3, 2]})}),
        Mode(
            "real, moving cuts, shared, client labels, lower ranks",
            {**SHARED, **TAIL, "rounds": 3, "local_steps": 1, "lora_r_cut": 1,
             **schedule({2: [2, 1], 3: [1, 1]})},
        ),
        Mode(
            "real, moving cuts, exact",
            {"aggregation": "exact", "rounds": 3, "local_steps": 1,
             **schedule({2: [2, 1], 3: [1, 2]})},
        ),
        Mode("real, frozen", {"train_front": False, "codec": "int8", "activation_cache_gb": 0.001}),
        Mode("real, delta", {"codec": "delta", "local_steps": 4, "rounds": 1}),
        Mode("real, delta, moving cuts", {"codec": "delta", "rounds": 3, **schedule({2: [2, 1], 3: [1, 2]})}),
        Mode("real, micro-batches", {"micro_batches": 2, "codec": "int8", "padding_free": True}),
        Mode("real, micro-batches, shared, client labels", {**SHARED, **TAIL, "micro_batches": 2}),
        Mode("real, stale", {"max_staleness": 1}),
        Mode("real, in turns", {"order": "turns", "server_optimizer": "fedavgm", "objective": "fedprox",
                                "proximal_mu": 0.1}),
        Mode("real, together", {**SHARED, "server_batch_tokens": 64, "clients": 3, "cuts": [1, 2, 1],
                                "local_steps": 1, "server_optimizer": "fedyogi"}),
        Mode("real, aggregator", {"network": AGGREGATOR, "server_optimizer": "fedadam"}, aggregator=True),
        Mode("real, aggregator, shared", {**SHARED, "network": AGGREGATOR, "codec": "int8"}, aggregator=True),
        Mode(
            "real, rejoin, shared",
            {**SHARED, "clients": 3, "cuts": [1, 2, 1], "network": {"min_clients": 2, "rejoin_seconds": 2.0}},
            strict=False,
        ),
        Mode(
            "real, stragglers, measured cuts",
            {"clients": 3, "cuts": [1, 2, 1], "micro_batches": "auto", "cut_policy": {"method": "makespan"},
             "network": {"clients": ["client-0", "client-1", "client-2"], "min_clients": 2,
                         "round_seconds": 3.0}},
            strict=False, slow=True,
        ),
        Mode(
            "real, whole models",
            {**WHOLE, "lora_dropout": 0.2, "gradient_accumulation_steps": 2, "server_optimizer": "fedavgm"},
        ),
        Mode(
            "real, whole models, aggregator",
            {**WHOLE, "aggregation": "freeze_a", "optim": "sgd", "optim_args": "momentum=0.9",
             "network": AGGREGATOR},
            aggregator=True,
        ),
        Mode("real, private", PRIVATE),
        Mode("real, masked", MASKED),
        Mode("real, masked, aggregator", {**MASKED, "network": AGGREGATOR}, aggregator=True),
        Mode("real, masked, private", {**MASKED, **PRIVATE, "clients": 3}),
        Mode(
            "real, masked, rejoin",
            {**MASKED, "clients": 5, "network": {"min_clients": 4, "rejoin_seconds": 2.0}}, strict=False,
        ),
        Mode(
            "real, masked, stragglers",
            {**MASKED, "clients": 4, "network": {"min_clients": 3, "round_seconds": 3.0,
                                                 "rejoin_seconds": 2.0}},
            strict=False, slow=True,
        ),
        Mode("real, rarely saved", {**RARELY, "save_every": 2, "rounds": 3, **schedule({2: [2, 1]})}),
    )
}  # fmt: skip
REAL = {name: replace(mode, real=True) for name, mode in REAL.items()}
CONNECTED: dict[str, Any] = {"sampling": "connected", "rejoin_seconds": 2.0, "min_clients": 2}
COMING = {
    mode.name: mode
    for mode in (
        Mode(
            "coming",
            {"clients": 4, "cuts": 1, "rounds": 4, "local_steps": 1, "clients_per_round": 2, "eval_every": 1,
             "eval_clients": 2, "network": CONNECTED},
            cuts=((1,) * 4,), strict=False,
        ),
        Mode(
            "coming, too many drawn",
            {"clients": 5, "cuts": 1, "rounds": 3, "clients_per_round": 2, "eval_every": 1,
             "network": {**CONNECTED, "over_selection": 1.5}},
            cuts=((1,) * 5,), strict=False, slow=True,
        ),
        Mode(
            "coming, client labels",
            {**TAIL, "clients": 4, "cuts": 1, "rounds": 3, "clients_per_round": 2, "network": CONNECTED},
            cuts=((1,) * 4,), strict=False,
        ),
    )
}  # fmt: skip
ALL = MODES | REAL | COMING


@cache
def _job(name: str) -> Job:
    mode = ALL[name]
    return Job(**{**(REAL_BASE if mode.real else BASE), **mode.settings})

"""The jobs that are simulated. strict: whatever happens, the bits are those of the undisturbed run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from splitft import Job

BASE: dict[str, Any] = {
    "clients": 2, "rounds": 2, "local_steps": 2, "eval_every": 2, "optim": "sgd", "max_grad_norm": 0.0,
    "lora_r": 1, "lora_alpha": 1, "codec": "none", "labels": "server", "cuts": [1, 2],
    "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "output_dir": "run",
    "padding_free": False, "max_eval_samples": None,
    "server_batch_tokens": "off", "micro_batches": "off", "model_name_or_path": "builtin:smollm2-135m",
    "dataset_name": "builtin:sotu", "server_evaluates": False,
}  # fmt: skip
TAIL = {"labels": "client", "tail_blocks": 1}
SHARED = {"server_adapter": "shared"}


@dataclass(frozen=True)
class Mode:
    """A kind of job. cuts: of the clients, by round; the last ones stay. slow: parties take their time."""

    name: str
    settings: Mapping[str, Any]
    strict: bool = True
    cuts: tuple[tuple[int, ...], ...] = ()
    slow: bool = False
    aggregator: bool = False

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
    )
}  # fmt: skip


@cache
def _job(name: str) -> Job:
    return Job(**{**BASE, **MODES[name].settings})

"""Checks of a client beside those of its gate: its memory, its model's files, and what its front computes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from splitft.data.table import check_file
from splitft.engines.network.gate import SLACK
from splitft.errors import JobError, PolicyError
from splitft.job.base_model import ModelSettings
from splitft.job.settings import CostSettings
from splitft.job.site_policy import SitePolicy
from splitft.lora.blocks import Adapter
from splitft.model.split_model import SplitModel
from splitft.model.window import find_blocks
from splitft.proof.cancelled import layer_changes
from splitft.weights.hub import locator, resolve_model
from splitft.weights.load import find_weights
from splitft.weights.quantized import quantization

GB = 10**9


def check_given(data: Path | None, eval_data: Path | None, *, job_data: bool) -> None:
    """Raise JobError where a client's options name no data, or too many; DataError where a file is none."""
    if not data and not job_data:
        raise JobError(
            "no data given: use --data FILE, or --job-data to take this client's share of the job's data set"
        )
    if data and job_data:
        raise JobError("--data FILE or --job-data, not both")
    if eval_data and not data:
        raise JobError("--eval-data goes with --data FILE; with --job-data the job's eval_files are read")
    for file in filter(None, (data, eval_data)):
        check_file(file)


def most_bytes_down(job: CostSettings, model: SplitModel) -> int:
    """Return the bytes of the largest message that a server can have for a client of a job."""
    rows = max(job.per_device_train_batch_size, job.per_device_eval_batch_size)
    sizes = [sum(math.prod(spec.shape) for spec in specs) for specs in model.slots.layout.values()]
    adapter = model.num_blocks * max(sizes, default=0)
    batch = 4 * rows * job.max_length * model.width if job.splits_model else 0
    return max(batch, 4 * 4 * adapter) + SLACK


def check_front(policy: SitePolicy, model: SplitModel, adapter: Adapter) -> None:
    """Raise PolicyError where adapters undo layers of a front: its activations would be the embeddings."""
    for change in layer_changes(model, adapter):
        for what, value, key in (
            (f"cancel {100 * change.cancelled:.0f} % of", change.cancelled, "max_cancelled"),
            (f"are {change.size:.3g} times as large as", change.size, "max_adapter_size"),
        ):
            if not value <= (most := getattr(policy, key)):
                raise PolicyError(
                    f"the server's adapters {what} the weights of layer {change.layer}, {key} is {most:g}: "
                    "activations would tell more of the text; nothing was computed with them"
                )


def check_memory(policy: SitePolicy, model: SplitModel, more: int) -> None:
    """Raise PolicyError where a model takes more memory than a policy allows. more: blocks to be loaded."""
    if policy.max_memory_gb is None:
        return
    largest = max(map(_bytes, find_blocks(model.model)[2]))
    _check_bytes(policy, _bytes(model.model) + more * largest)


def check_whole(policy: SitePolicy, shapes: Callable[[], Any]) -> None:
    """Raise PolicyError where a whole base takes more memory than a policy allows; no weight is read.

    shapes: Returns the base without weights. A quantised one is smaller than its shapes tell, and is checked
        once it is loaded.
    """
    if policy.max_memory_gb is not None and quantization((model := shapes()).config) is None:
        _check_bytes(policy, _bytes(model))


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _check_bytes(policy: SitePolicy, needed: int) -> None:
    if policy.max_memory_gb is not None and needed > policy.max_memory_gb * GB:
        raise PolicyError(
            f"the server's job needs {needed / GB:.2g} GB of weights and adapters here, max_memory_gb is "
            f"{policy.max_memory_gb:g}"
        )


def check_model_files(policy: SitePolicy, named: str, job: ModelSettings) -> None:
    """Raise PolicyError where the policy does not list a weight file of the model. named: by the server."""
    listed = (policy.models or {}).get(named)
    if not listed:
        return
    folder, _ = find_weights(
        job.model_name_or_path, locator(resolve_model(job.model_name_or_path), job.model_revision)
    )
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 22):
                digest.update(chunk)
        if digest.hexdigest() not in listed:
            raise PolicyError(
                f"{path} has SHA-256 {digest.hexdigest()}, which models does not list for {named}"
            )

"""The first lines of a run: what is trained, on what, in how many steps, and what a server can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from splitft.common.text import short_count
from splitft.job.exposure import exposure
from splitft.job.settings import CostSettings, FederationSettings
from splitft.lora.blocks import Adapter, trained_tensors
from splitft.running.prepare import Assembly
from splitft.running.private import privacy_lines


def headline(start: Assembly) -> Table:
    """Return the first lines of a run, for any width of terminal."""
    job, counts = start.job, parameter_counts(start.model, start.adapter, {})
    dtype = str(start.model.dtype).removeprefix("torch.")
    at_cut = f", {job.lora_r_cut} at the cut" if job.splits_model and job.lora_r_cut else ""
    trained = counts["adapter"]
    if job.freeze_a:
        kept = [trained_tensors(tensors, freeze_a=True) for tensors in start.adapter.values()]
        trained = sum(tensor.numel() for tensors in kept for tensor in tensors.values())
    return two_columns({
        "model": f"{job.model_name_or_path}, {short_count(counts['base'])} parameters in {start.num_blocks} "
        f"blocks, {dtype}, on {start.device}",
        "trained": f"{short_count(trained)} parameters ({100 * trained / max(1, counts['base']):.2g} %): "
        f"LoRA of rank {job.lora_r}{at_cut}",
        "batch": batch_text(job, len(start.names)),
        "steps": f"{job.rounds * job.local_steps:,} of the optimizer {_of_whom(job, len(start.names))}: "
        f"{job.local_steps} in each round, {job.rounds} in all",
        "server reads": exposure(job, job.network.aggregator, start.num_blocks).summary,
        **privacy_lines(job, [len(client.train) for client in start.clients]),
    })  # fmt: skip


def two_columns(lines: Mapping[str, str]) -> Table:
    """Return lines with their names, which wrap beside the name on a narrow terminal."""
    made = Table.grid(padding=(0, 2))
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for name, text in lines.items():
        made.add_row(Text(name), Text(text))
    return made


def batch_text(job: CostSettings, clients: int) -> str:
    """Return the rows of an optimizer step, of one client and of all together."""
    rows, times = job.per_device_train_batch_size, job.gradient_accumulation_steps
    one = f"{rows * times} rows a client" + (f" ({times} micro-batches of {rows})" if times > 1 else "")
    members = min(job.clients_per_round or clients, clients)
    of = f"the {members} clients of a round" if members < clients else f"{clients} clients"
    return f"{one}, {rows * times * members} of {of} together, in an optimizer step"


def parameter_counts(model: Any, adapter: Adapter, cuts: Mapping[str, int]) -> dict[str, Any]:
    """Return counts of base and adapter parameters, and of those that each client trains."""
    per_block = {block: sum(t.numel() for t in tensors.values()) for block, tensors in adapter.items()}
    base = sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name)
    clients = {name: sum(n for b, n in per_block.items() if b < cut) for name, cut in cuts.items()}
    return {"base": base, "adapter": sum(per_block.values()), "front_adapters": clients}


def _of_whom(job: FederationSettings, clients: int) -> str:
    if job.method == "centralized":
        return f"for each of {clients} clients, on the pooled rows"
    drawn = (job.clients_per_round or clients) < clients
    return "at each client" + (" that is drawn every time" if drawn else "")

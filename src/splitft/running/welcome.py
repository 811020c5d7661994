"""What clients get first from a server, and the largest message that it takes from them."""

from __future__ import annotations

from splitft.engines.network.control import Welcome
from splitft.engines.network.gate import SLACK
from splitft.job.told import told_job
from splitft.model.config import text_config
from splitft.running.base_facts import base_facts
from splitft.running.facts import config_facts, tokenizer_facts, version_facts, weight_facts
from splitft.running.prepare import Assembly
from splitft.weights.held import base_dtype


def welcome_of(start: Assembly) -> Welcome:
    """Return what clients get first: the job, its dtype settled, the layers with LoRA, and digests."""
    job, slots, config = start.job, start.split_model.slots, start.model.config
    dtype = str(base_dtype(job, config)).removeprefix("torch.")
    told, optional = told_job(job.model_copy(update={"dtype": dtype, "network": job.network.told}))
    facts = config_facts(config) | tokenizer_facts(start.tokenizer) | version_facts()
    held = start.has_weights
    facts |= weight_facts(start.model, moved=job.moves_base) if held else base_facts(job, config)
    return Welcome(
        job=told,
        targets=tuple(slots.targets),
        excluded=tuple(slots.excluded),
        server_inputs=start.report.server_inputs,
        optional=optional,
        things=tuple(facts),
        values=tuple(facts.values()),
    )


def most_bytes(start: Assembly) -> int:
    """Return the bytes of the largest message that a client of this job can send."""
    job, config = start.job, text_config(start.model)
    rows = max(job.per_device_train_batch_size, job.per_device_eval_batch_size)
    batch = rows * job.max_length * (4 * int(config.hidden_size) + 8) if job.splits_model else 0
    adapter = sum(tensor.numel() for block in start.adapter.values() for tensor in block.values())
    return max(batch, 2 * 4 * adapter) + SLACK

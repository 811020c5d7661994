"""Digests of a base model whose weights no process holds: one block is read at a time."""

from __future__ import annotations

from functools import partial

from transformers import PreTrainedConfig

from splitft.errors import ModelError
from splitft.job.base_model import ModelSettings
from splitft.model.config import count_blocks
from splitft.running.facts import weight_facts
from splitft.weights.held import base_dtype
from splitft.weights.load import load_model


def base_facts(job: ModelSettings, config: PreTrainedConfig) -> dict[str, str]:
    """Return what `weight_facts` returns of a job's base, and keep none of its weights.

    A type that cannot be held in parts is read whole, once.

    Args:
        config: Of the base.

    Raises:
        ModelError: The weights cannot be read.
    """
    load = partial(
        load_model,
        job.model_name_or_path,
        revision=job.model_revision,
        dtype=base_dtype(job, config),
        attn_implementation=job.attn_implementation,
    )
    try:
        found = weight_facts(load(blocks=[0]))  # with all that lies beside the blocks
        for block in range(1, count_blocks(config)):
            found |= weight_facts(load(blocks=[block], head=False, outside=False), [block])
    except ModelError:
        return weight_facts(load())
    return found

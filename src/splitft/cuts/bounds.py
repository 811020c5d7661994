"""The fewest and the most blocks that each client may hold."""

from __future__ import annotations

from splitft.cuts.observe import Observation
from splitft.errors import JobError
from splitft.job.sections import CutPolicyConfig


def cut_bounds(observation: Observation, config: CutPolicyConfig) -> dict[str, tuple[int, int]]:
    """Return {client: (fewest, most)}. The server keeps at least one block.

    Raises JobError where a client cannot hold `min_cut` blocks.
    """
    found = {}
    for client in observation.clients:
        highest = min(client.max_cut, observation.num_blocks - 1, config.max_cut or observation.num_blocks)
        if highest < config.min_cut:
            remedy = "lower cut_policy.min_cut, or give" if highest >= 1 else "give"
            raise JobError(
                f"client {client.name} can hold at most {highest} blocks (its memory, the model and "
                f"cut_policy.max_cut bound it), but cut_policy.min_cut is {config.min_cut}: {remedy} it a "
                "device with more memory, or leave it out"
            )
        found[client.name] = (config.min_cut, highest)
    return found

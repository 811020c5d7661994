"""LoRA adapters per block: where they sit in a model, how they start, and how they travel.

peft injects the modules once; each party then binds its own tensors to them, so that any number of clients
and the server share one frozen base. A block's scaling is lora_alpha / lora_r whatever its effective rank.
"""

from __future__ import annotations

from splitft.job import Job


def effective_ranks(
    num_blocks: int, cut: int, r: int, r_cut: int | None = None, side: str = "both"
) -> dict[int, int]:
    """Return {block: rank} of one client's model: r_cut at its cut, r elsewhere.

    side: both blocks at the cut (paper), the client's last one alone, or none. r_cut None: r. A cut of all
    blocks is none: the whole model is on the client.
    """
    if cut >= num_blocks:
        return dict.fromkeys(range(num_blocks), r)
    lower = {"both": (cut - 1, cut), "client": (cut - 1,), "none": ()}[side]
    return {block: (r_cut or r) if block in lower else r for block in range(num_blocks)}


def job_ranks(job: Job, num_blocks: int, cut: int) -> dict[int, int]:
    """Return {block: effective rank} of a client of a job at this cut."""
    return effective_ranks(num_blocks, cut, job.lora_r, job.lora_r_cut, job.lora_r_cut_side)

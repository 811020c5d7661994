"""Prove a job before it runs: on a small copy of its model's configuration, without weights or data."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from splitft.errors import JobError, ModelError
from splitft.job import Job
from splitft.model.attention import attend_samples_apart
from splitft.model.config import count_blocks
from splitft.model.split_model import SplitModel
from splitft.model.targets import block_layers, matches, may_name_block
from splitft.proof.attention import with_attention
from splitft.proof.batched import prove_batching
from splitft.proof.split import SplitReport, check_split, map_cuts
from splitft.proof.trial import finite_random_model
from splitft.running.methods import with_method
from splitft.running.model import base_config, choose_targets, inject_adapters, load_base, wants_padding_free
from splitft.running.prepare import possible_cuts, with_whole_batches
from splitft.weights.shrink import shrink_config


@dataclass(frozen=True)
class JobReport:
    """What a proof found for a job; `split` is of the small copy, at the job's own cuts."""

    model: str
    split: SplitReport
    cuts: tuple[int, ...]  # of the job
    targets: tuple[str, ...]  # names of modules with LoRA, and of weights of fused experts
    left_out: dict[str, str]  # names without, and why
    rank: int
    labels: str
    in_parts: bool  # batches are computed in parts, and may be
    together: str | None  # problem of clients in one pass; None: the job does not ask for it


def in_any_block(job: Job) -> Job:
    """Return the job with the same layers in every block, for a copy whose blocks are others.

    Raises ModelError where the job chooses no layer of its model.
    """
    requested = job.lora_target_modules
    names = [requested] if isinstance(requested, str) else requested or []
    if job.layers_to_transform is None and not job.exclude_modules and not any(map(may_name_block, names)):
        return job
    shapes = load_base(job, Console(quiet=True), weights=False)
    (chosen, _), _ = choose_targets(job, shapes)
    within = [name for full, _, name in block_layers(shapes) if matches(full, list(chosen))]
    layers = list(dict.fromkeys(within))
    return job.model_copy(
        update={"lora_target_modules": layers, "layers_to_transform": None, "exclude_modules": None}
    )


def check_job(job: Job) -> JobReport:
    """Compare a training step with the job's own adapters, in the forms that it uses, with the whole model's.

    Raises JobError and ModelError where a run would.
    """
    # The job's demands on the configuration, and its cuts.
    job = with_method(job)
    config = base_config(job)
    job, count = with_whole_batches(job, config), count_blocks(config)
    stated = job.cuts if isinstance(job.cuts, list) else [job.cuts]
    for moved in (job.cut_policy.schedule or {}).values():
        stated = [*stated, *(moved if isinstance(moved, list) else [moved])]
    highest = count - 1 - job.num_tail_blocks
    if wrong := [cut for cut in stated if cut > highest]:
        raise JobError(f"cuts must lie between 1 and {highest}, of {count} blocks; got {wrong[0]}")
    wanted = possible_cuts(job, stated, count)
    # A small copy, and the job with cuts of the copy.
    model = finite_random_model(shrink_config(config), job.seed)
    here = count_blocks(model.config)
    tail = min(job.num_tail_blocks, here - 2)
    cuts = tuple(cut for cut in map_cuts(wanted, count, here) if cut < here - tail) or (1,)
    small = in_any_block(job).model_copy(
        update={"cuts": max(cuts), "tail_blocks": tail or None, "layers_to_transform": None}
    )
    # The adapters that the job asks for, and the training step with them.
    targets, left_out = choose_targets(small, model)
    if wants_padding_free(job):
        with_attention(model, attend_samples_apart, job.seed)
    slots = inject_adapters(small, model, targets)
    report = check_split(
        model,
        cuts,
        tail_blocks=tail,
        labels=job.labels,
        padding_free=wants_padding_free(job),
        slots=slots,
        seed=job.seed,
    )
    if not report.ok:
        how = "trained" if report.splits else "split"
        raise ModelError(f"{job.model_name_or_path} cannot be {how}: {report.reason}")
    together = None
    if job.batches_clients and job.splits_model and job.labels == "server":
        split = SplitModel(model, slots, server_inputs=report.server_inputs)
        together = prove_batching(split, cuts, job.seed)
    names = (*targets[0], *(job.lora_target_parameters or ()))
    return JobReport(
        job.model_name_or_path,
        report,
        tuple(wanted),
        names,
        left_out,
        job.lora_r,
        job.labels,
        job.micro_batches != "off",
        together,
    )

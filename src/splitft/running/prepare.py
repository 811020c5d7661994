"""From a job to the things a run is made of: data dealt, model split and proven, adapter in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from splitft.cuts import check_cut_policy
from splitft.data import ClientData, Prepared, Rows, partition_table, prepare
from splitft.devices import check_devices
from splitft.errors import JobError, ModelError
from splitft.job import Job
from splitft.lora.blocks import Adapter, initial_adapter
from splitft.model.attention import attend_samples_apart, use_fast_backward
from splitft.model.slots import AdapterSlots, inject, lora_config, resolve_targets, uses_fan_in_fan_out
from splitft.model.split_model import SplitModel
from splitft.model.window import find_blocks, install_window, learn_habits, num_blocks
from splitft.proof import SplitReport, check_split
from splitft.proof.head import whole_loss_notice
from splitft.proof.packed import padded_notice
from splitft.running.export import load_adapter
from splitft.running.fallback import resolve_sources
from splitft.weights.load import base_dtype, load_config, load_model, load_tokenizer, resolve_model
from splitft.weights.partial import spread_habits
from splitft.weights.shrink import causal_class, shrink_config, tiny_random_model
from splitft.wire.codecs.registry import check_codecs


@dataclass(frozen=True)
class Assembly:
    """What a run (or a plan, whose model has shapes but no weights) starts from."""

    job: Job  # with fallbacks in place where they were needed
    notices: list[str]  # what a person must know of these
    base: str  # folder or hub id of the model
    pad_token_id: int
    names: list[str]  # of the clients, in the order of all sums
    prepared: Prepared | None  # None: the data are the clients', elsewhere
    model: Any
    slots: AdapterSlots
    targets: list[str]
    adapter: Adapter
    report: SplitReport
    cuts: dict[str, int]  # of the job, for every client

    @property
    def clients(self) -> Sequence[ClientData]:
        return self.prepared.clients if self.prepared else ()

    @property
    def num_blocks(self) -> int:
        return num_blocks(self.model)

    def split_model(self) -> SplitModel:
        """Return what computes the parts of the model, as it was proven."""
        return SplitModel(
            self.model,
            self.slots,
            seed=self.job.seed,
            server_inputs=self.report.server_inputs,
            head=self.report.head,
            loss_chunk_tokens=self.job.loss_chunk_tokens,
        )


def assemble(
    job: Job, console: Console, *, weights: bool = True, elsewhere: Sequence[str] | None = None
) -> Assembly:
    """Prepare a job. weights: load them; else the model is built without, on the meta device.

    elsewhere: names of the clients, where these have the data themselves. Raises JobError, DataError,
    ModelError.
    """
    check_cut_policy(job)
    check_codecs(job)
    check_devices(job)
    job, notices = resolve_sources(job)
    for notice in notices:
        console.print(f"[bold yellow]Note:[/] {escape(notice)}")
    base = str(resolve_model(job.model_name_or_path, job.model_revision))
    tokenizer = load_tokenizer(job.model_name_or_path, job.model_revision)
    prepared = None
    if elsewhere is None:
        if job.dataset_name is None and job.data_files is None:
            raise JobError(
                "the job names no data: the clients of its network have them (`splitft server` runs it); for "
                "a run in one process set dataset_name or data_files"
            )
        with console.status("reading and dealing the data"):
            prepared = prepare(job, tokenizer)
        console.print(partition_table(prepared.report))
    clients = prepared.clients if prepared else ()
    names = list(elsewhere) if elsewhere is not None else [client.name for client in clients]
    with console.status(f"loading {job.model_name_or_path}"):
        model = _whole_model(job) if weights else model_shapes(job)
    if weights and job.padding_free:
        attend_samples_apart(model)
    check_positions(job, model)
    check_vocabulary(job, model, (rows for client in clients for rows in (client.train, client.eval)))
    cuts = resolve_cuts(job, names, num_blocks(model))
    with console.status("proving that the split is exact"):
        report = _prove(job, model if weights else model.config, cuts, num_blocks(model))
    if job.padding_free and report.padding_free:
        job = job.model_copy(update={"padding_free": False})
        notices.append(padded_notice(report.padding_free))
        console.print(f"[bold yellow]Note:[/] {escape(notices[-1])}")
    if weights and job.loss_chunk_tokens and report.head_reason:
        notices.append(whole_loss_notice(report.head_reason))
        console.print(f"[bold yellow]Note:[/] {escape(notices[-1])}")
    slots, targets = inject_adapters(job, model)
    if job.adapter_name_or_path:
        adapter = load_adapter(job.adapter_name_or_path, slots, job)
    else:
        adapter = initial_adapter(slots.layout, job.lora_r, job.seed)
    if weights:
        adapter = {b: {n: t.to(model.device) for n, t in block.items()} for b, block in adapter.items()}
    pad = tokenizer.pad_token_id
    return Assembly(job, notices, base, pad, names, prepared, model, slots, targets, adapter, report, cuts)


def inject_adapters(job: Job, model: Any) -> tuple[AdapterSlots, list[str]]:
    """Inject LoRA as the job asks; return its slots and the names of the target modules."""
    targets, excluded = resolve_targets(model, job.lora_target_modules)
    return inject_targets(job, model, targets, excluded), targets


def inject_targets(job: Job, model: Any, targets: list[str], excluded: list[str]) -> AdapterSlots:
    """Inject LoRA into the modules of these names, but for those in `excluded`; return its slots."""
    config = lora_config(
        targets,
        excluded,
        r=job.lora_r,
        alpha=job.lora_alpha,
        dropout=job.lora_dropout,
        fan_in_fan_out=uses_fan_in_fan_out(model),
        blocks=range(job.frozen_blocks, num_blocks(model)) if job.frozen_blocks else None,
    )
    slots = inject(model, config)
    if job.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return slots


def _whole_model(job: Job) -> Any:
    model = load_model(
        job.model_name_or_path,
        revision=job.model_revision,
        dtype=base_dtype(job),
        attn_implementation=job.attn_implementation,
    ).to(device_for(job))  # type: ignore[arg-type,unused-ignore]
    if job.attn_implementation is None:
        use_fast_backward(model)
    return model


def model_shapes(job: Job) -> Any:
    """Return a job's model with shapes and no weights, on the meta device."""
    model_class, config = causal_class(load_config(job.model_name_or_path, job.model_revision))
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=base_dtype(job)).eval()
    small = tiny_random_model(shrink_config(config))  # how blocks answer is learned on a copy with values
    names = tuple(type(block).__name__ for block in find_blocks(small)[2])
    install_window(model, spread_habits(learn_habits(small), names, model))
    return model


def _prove(job: Job, model: Any, cuts: Mapping[str, int], blocks: int) -> SplitReport:
    """Prove every cut that the run may use: those of the job, or all that its policy may choose."""
    policy = job.cut_policy
    if policy.method == "fixed" or job.method != "splitft":
        possible = set(cuts.values())
    else:
        highest = min(policy.max_cut or blocks, blocks - job.tail_blocks - 1)
        possible = {*range(policy.min_cut, highest + 1), *cuts.values()}
    report = check_split(
        model,
        sorted(possible),
        tail_blocks=job.tail_blocks,
        labels=job.labels,
        padding_free=job.padding_free,
        seed=job.seed,
    )
    if not report.ok:
        raise ModelError(f"{job.model_name_or_path} cannot be split: {report.reason}")
    return report


def resolve_cuts(job: Job, names: Sequence[str], blocks: int) -> dict[str, int]:
    """Return {client: cut}. Raises JobError where a cut leaves the server without a block."""
    stated = stated_cuts(job, names)
    highest = blocks - job.tail_blocks - 1
    if highest < 1:
        raise JobError(
            f"the model has {blocks} blocks and tail_blocks is {job.tail_blocks}, but client and server need "
            "one each before the tail: lower tail_blocks, or choose a model with more blocks"
        )
    tail = f" and tail_blocks={job.tail_blocks}" if job.tail_blocks else ""
    why = f"since the model has {blocks} blocks{tail} and the server needs at least one"
    if job.cut_policy.min_cut > highest:
        raise JobError(f"cut_policy.min_cut must be at most {highest}, {why}; got {job.cut_policy.min_cut}")
    for key, cuts in stated.items():
        wrong = [f"{name}: {cut}" for name, cut in cuts.items() if cut > highest]
        if wrong:
            raise JobError(f"{key} must lie between 1 and {highest}, {why}; got {', '.join(wrong)}")
    return stated["cuts"]


def stated_cuts(job: Job, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return {key of the job: {client: cut}} of all cuts that the job states itself.

    Raises JobError where a list does not have an entry for each client.
    """
    schedule = job.cut_policy.schedule if job.method == "splitft" else None
    given = {"cuts": job.cuts}
    given |= {f"cut_policy.schedule (round {number})": entry for number, entry in (schedule or {}).items()}
    stated = {}
    for key, entry in given.items():
        cuts = entry if isinstance(entry, list) else [entry] * len(names)
        if len(cuts) != len(names):
            raise JobError(f"{key} has {len(cuts)} entries for {len(names)} clients ({', '.join(names)})")
        stated[key] = dict(zip(names, cuts, strict=True))
    if job.method == "same_split":
        mean = round(sum(stated["cuts"].values()) / len(names))
        stated["cuts"] = dict.fromkeys(names, mean)
    return stated


def check_positions(job: Job, model: Any) -> None:
    """Raise JobError where max_length exceeds the positions that the model was made for."""
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < job.max_length:
        raise JobError(
            f"max_length is {job.max_length}, the model takes {positions} tokens: lower max_length"
        )


def check_vocabulary(job: Job, model: Any, data: Iterable[Rows]) -> None:
    """Raise ModelError where rows hold token ids that the model has no embedding for."""
    known = getattr(model.config.get_text_config(decoder=True), "vocab_size", None)
    highest = max((int(ids.max()) for rows in data for ids in rows.input_ids), default=0)
    if isinstance(known, int) and highest >= known:
        raise ModelError(
            f"the tokenizer of {job.model_name_or_path} gives token id {highest}, but the model's vocabulary "
            f"ends at {known - 1}: the tokenizer is another model's"
        )


def device_for(job: Job) -> torch.device:
    """Return the accelerator where there is one and the job allows it, else the CPU."""
    accelerator = None if job.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")

"""From a job to the things a run is made of: data dealt, model split and proven, adapter in place."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.markup import escape
from transformers import PreTrainedTokenizerBase

from splitft.common.notices import Notice
from splitft.data import ClientData, Prepared, partition_table, prepare
from splitft.errors import DataError, JobError, ModelError
from splitft.job import Job
from splitft.job.sections import per_client
from splitft.job.settings import BatchSettings, FederationSettings
from splitft.lora.blocks import Adapter, device_of, to_device
from splitft.lora.initial import new_adapter
from splitft.model.config import count_blocks, rope_border, text_config
from splitft.model.magnitudes import set_magnitudes
from splitft.model.split_model import SplitModel
from splitft.proof.head import whole_loss_notice
from splitft.proof.packed import padded_notice
from splitft.proof.parts import parts_problem
from splitft.proof.split import SplitReport, check_split
from splitft.proof.targets import by_reason
from splitft.running.export import load_adapter
from splitft.running.fallback import resolve_sources
from splitft.running.given import Given
from splitft.running.model import (
    base_config,
    choose_targets,
    inject_adapters,
    load_base,
    make_split_model,
    wants_padding_free,
)
from splitft.running.names import check_names
from splitft.running.predictions import HeldOutPredictions
from splitft.running.private import check_private
from splitft.weights.held import base_notice
from splitft.weights.hub import resolve_model
from splitft.weights.kinds import image_tokens
from splitft.weights.load import load_tokenizer, ready_tokenizer


@dataclass(frozen=True)
class Assembly:
    """Everything that a run starts from; a plan's model has shapes but no weights."""

    job: Job  # with fallbacks in place where they were needed
    notices: list[str]  # facts that a person must know of these
    base: str  # folder or hub id of the model
    tokenizer: PreTrainedTokenizerBase
    names: list[str]  # of the clients, in the order of all sums
    prepared: Prepared | None  # None: the data are the clients', elsewhere
    split_model: SplitModel
    adapter: Adapter
    report: SplitReport
    cuts: dict[str, int]  # of the job, for every client
    stated: Job  # as it was given, before anything was settled by the model and the machine here
    predictions: HeldOutPredictions | None = None  # for figures of the user's own

    @property
    def pad_token_id(self) -> int:
        return cast(int, self.tokenizer.pad_token_id)

    @property
    def clients(self) -> Sequence[ClientData]:
        return self.prepared.clients if self.prepared else ()

    @property
    def model(self) -> Any:
        return self.split_model.model

    @property
    def has_weights(self) -> bool:
        """Whether the model's weights are here, and not their shapes alone."""
        return self.split_model.device.type != "meta"

    @property
    def device(self) -> torch.device:
        """The device of the adapters, and of the model where its weights are here."""
        return device_of(self.adapter)

    @property
    def num_blocks(self) -> int:
        return self.split_model.num_blocks


def assemble(
    job: Job,
    console: Console,
    *,
    weights: bool = True,
    elsewhere: Sequence[str] | None = None,
    given: Given | None = None,
) -> Assembly:
    """Prepare a job. Raises JobError, DataError, ModelError.

    weights: False for a model of shapes alone, on the meta device.
    elsewhere: names of the clients, where these have the data themselves.
    given: objects in the place of what the job names.
    """
    # 1. Names of policies, codecs and devices; sources, or their fallbacks.
    check_names(job, job, job)
    given, stated = given or Given(), job
    job, notices = resolve_sources(job)
    if given.model is None:
        source, config = str(resolve_model(job.model_name_or_path)), base_config(job)
        notices += filter(None, [base_notice(job, config, resolve_model(job.model_name_or_path))])
    else:
        source, config = job.model_name_or_path, given.model.config
    for text in notices:
        note(console, text)
    # 2. Data, dealt to the clients.
    base = str(Path(source).resolve()) if Path(source).is_dir() else source
    if given.tokenizer is None:
        tokenizer = load_tokenizer(job.model_name_or_path, job.model_revision)
    else:
        tokenizer = ready_tokenizer(given.tokenizer)
    prepared, names = None, list(elsewhere or ())
    if elsewhere is None:
        if job.dataset_name is None and job.data_files is None:
            raise JobError(
                "the job names no data: the clients of its network have them (`splitft server` runs it); for "
                "a run in one process set dataset_name or data_files"
            )
        with console.status("reading and dealing the data"):
            prepared = prepare(job, tokenizer, given.train_dataset, given.eval_dataset)
        for text in prepared.notices:
            note(console, text)
        notices += prepared.notices
        console.print(partition_table(prepared.report))
        names = [client.name for client in prepared.clients]
        if job.num_train_epochs is not None:
            rows = [len(client.train) for client in prepared.clients]
            job = job.model_copy(
                update={"rounds": rounds_of_epochs(job, job.num_train_epochs, rows, job.clients_per_round)}
            )
            console.print(
                f"num_train_epochs {job.num_train_epochs:g}: {job.rounds} rounds, for the client with "
                f"{max(rows)} rows",
                highlight=False,
            )
    clients = prepared.clients if prepared else ()
    # 3. Demands on the model that its configuration tells.
    check_config(job, config, clients)
    job = with_whole_batches(job, config)
    blocks = count_blocks(config)
    cuts = resolve_cuts(job, names, blocks)
    # 4. The model, split and proven at the job's cuts and all that its policy may choose.
    model = load_base(job, console, weights=weights, model=given.model)
    predictions = given.predictions(clients, job, getattr(text_config(config), "vocab_size", 0))
    with console.status("proving that a split step trains as a whole one does"):
        targets, left_out = choose_targets(job, model)
        slots = inject_adapters(job, model, targets)
        report = check_split(
            model if weights else config,
            possible_cuts(job, cuts.values(), blocks),
            tail_blocks=job.num_tail_blocks,
            labels=job.labels,
            padding_free=wants_padding_free(job),
            slots=slots if weights else None,
            seed=job.seed,
        )
    if not report.ok:
        how = "trained" if report.splits else "split"
        raise ModelError(f"{job.model_name_or_path} cannot be {how}: {report.reason}")
    limits = []
    if weights and job.loss_chunk_tokens and report.head_reason:
        limits.append(whole_loss_notice(report.head_reason))
    if job.padding_free is True and report.padding_free:
        limits.append(padded_notice(report.padding_free))
    proven = report.padding_free == ""
    job = job.model_copy(update={"padding_free": proven and wants_padding_free(job)})
    limits += [f"no LoRA on {names}: {problem}" for problem, names in by_reason(left_out).items()]
    for text in limits:
        note(console, text)
    head, keep = report.head if weights else "whole", predictions.keep if predictions else None
    split = make_split_model(job, model, slots, report.server_inputs, head, keep)
    if weights:
        check_private(job, split)
    # 5. The adapter to start from, on the model's device.
    if job.adapter_name_or_path:
        adapter = load_adapter(job.adapter_name_or_path, split.slots, job)
    elif split.slots.start:
        adapter = {b: {n: t.clone() for n, t in tensors.items()} for b, tensors in split.slots.start.items()}
    else:
        adapter = new_adapter(split.slots.layout, job.lora_r, job.seed, job.init_lora_weights)
        set_magnitudes(model, split.slots, adapter)
    if weights:
        adapter = to_device(adapter, split.device)
        tried = f"cuts {', '.join(map(str, report.cuts))} of {report.num_blocks} blocks"
        difference = f"largest logit difference {report.max_logit_difference:g}"
        console.print(f"split proven on the model itself at {tried}: {difference}", highlight=False)
    notices += limits
    of_data = tokenizer, names, prepared
    return Assembly(job, notices, base, *of_data, split, adapter, report, cuts, stated, predictions)


def rounds_of_epochs(job: BatchSettings, epochs: float, rows: Sequence[int], per_round: int | None) -> int:
    """Return the rounds in which the client with most rows trains on each of them `epochs` times.

    rows: of every client. per_round: clients in a round; None: all.
    """
    steps = epochs * max(rows) / (job.per_device_train_batch_size * job.gradient_accumulation_steps)
    share = min(per_round or len(rows), len(rows)) / len(rows)
    return max(1, math.ceil(math.ceil(steps) / share / job.local_steps))


def note(console: Console, text: str) -> None:
    """Print a fact that must not be missed."""
    console.print(Notice(text, "note", "warning").shown_as(f"[bold yellow]Note:[/] {escape(text)}"))


def resolve_cuts(job: Job, names: Sequence[str], blocks: int) -> dict[str, int]:
    """Return {client: cut}. Raises JobError where a cut leaves the server without a block."""
    stated = stated_cuts(job, names)
    highest = blocks - job.num_tail_blocks - 1
    if highest < 1:
        raise JobError(
            f"the model has {blocks} blocks and tail_blocks is {job.num_tail_blocks}, but client and server "
            "need one each before the tail: lower tail_blocks, or choose a model with more blocks"
        )
    tail = f" and tail_blocks={job.num_tail_blocks}" if job.num_tail_blocks else ""
    why = f"since the model has {blocks} blocks{tail} and the server needs at least one"
    if job.cut_policy.min_cut > highest:
        raise JobError(f"cut_policy.min_cut must be at most {highest}, {why}; got {job.cut_policy.min_cut}")
    for key, cuts in stated.items():
        wrong = [f"{name}: {cut}" for name, cut in cuts.items() if cut > highest]
        if wrong:
            raise JobError(f"{key} must lie between 1 and {highest}, {why}; got {', '.join(wrong)}")
    return stated["cuts"]


def possible_cuts(job: FederationSettings, stated: Iterable[int], blocks: int) -> list[int]:
    """Return the cuts that the job states, and all that its policy may choose, in order."""
    policy, possible = job.cut_policy, set(stated)
    if policy.method != "fixed" and job.method == "splitft":
        highest = min(policy.max_cut or blocks, blocks - job.num_tail_blocks - 1)
        possible |= set(range(policy.min_cut, highest + 1))
    return sorted(possible)


def stated_cuts(job: Job, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return {key of the job: {client: cut}} of all cuts that the job states itself.

    Raises JobError where a list does not have an entry for each client.
    """
    schedule = job.cut_policy.schedule if job.method == "splitft" else None
    given = {"cuts": job.cuts}
    given |= {f"cut_policy.schedule (round {number})": entry for number, entry in (schedule or {}).items()}
    stated = {key: per_client(key, entry, names) for key, entry in given.items()}
    if job.method == "same_split":
        mean = round(sum(stated["cuts"].values()) / len(names))
        stated["cuts"] = dict.fromkeys(names, mean)
    return stated


def own_cut(job: Job, name: str, names: Sequence[str]) -> int:
    """Return the cut that a job states for a client, as far as it tells; else its lowest."""
    try:
        return stated_cuts(job, names)["cuts"][name]
    except (JobError, KeyError):
        return min(job.cuts) if isinstance(job.cuts, list) else job.cuts


def offered_cuts(job: Job, blocks: int) -> Collection[int]:
    """Return all cuts that a server may choose by its job."""
    if not job.splits_model:
        return (blocks,)
    stated = job.cuts if isinstance(job.cuts, list) else [job.cuts]
    if job.method == "same_split":
        return range(min(stated), max(stated) + 1)
    scheduled = (job.cut_policy.schedule or {}).values()
    more = [cut for entry in scheduled for cut in (entry if isinstance(entry, list) else [entry])]
    return possible_cuts(job, [*stated, *more], blocks)


def with_whole_batches(job: Job, config: Any) -> Job:
    """Return the job without parts of batches and batches of several clients where these change the function.

    In such models one row of a batch changes what others get: the longest decides on the rotary table of all
    (`rope_border`), for one. Raises JobError where the job states a number, and does not leave it to `auto`.
    """
    border, keys = rope_border(config), ["micro_batches", "server_batch_tokens"]
    if border is not None and job.max_length > border:
        advice = f", or max_length to {border} at most"
        problem = f"a row of more than {border} tokens gives its whole batch another rotary table"
    elif border is None and job.micro_batches != "off" and (problem := parts_problem(config, job.seed)):
        keys, advice = keys[:1], ""
    else:
        return job
    for key in keys:
        if isinstance(getattr(job, key), int):
            raise JobError(
                f"{key}: {problem} in this model, so other batches would change what is computed: "
                f"set {key}: off{advice}"
            )
    return job.model_copy(update=dict.fromkeys(keys, "off"))


def check_config(job: Job, config: Any, clients: Iterable[ClientData]) -> None:
    """Hold a job and its data to the configuration of their model.

    Raises JobError where max_length exceeds the model's positions, ModelError where rows hold token ids that
    it has no embedding for, and DataError where they hold ids that stand for images.
    """
    positions = getattr(text_config(config), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < job.max_length:
        raise JobError(
            f"max_length is {job.max_length}, the model takes {positions} tokens: lower max_length"
        )
    known = getattr(text_config(config), "vocab_size", None)
    rows = [ids for client in clients for some in (client.train, client.eval) for ids in some.input_ids]
    highest = max((int(ids.max()) for ids in rows), default=0)
    if isinstance(known, int) and highest >= known:
        raise ModelError(
            f"the tokenizer of {job.model_name_or_path} gives token id {highest}, but the model's vocabulary "
            f"ends at {known - 1}: the tokenizer is another model's"
        )
    for name, token in image_tokens(config).items():
        if any(bool((ids == token).any()) for ids in rows):
            raise DataError(
                f"a row holds token id {token}, the model's {name}, and SplitFT trains on text alone: remove "
                "the marks of images from the texts"
            )

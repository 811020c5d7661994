"""A job's data, ready to train on: read, hold out, tokenise, deal, pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from splitft.common.text import first_few
from splitft.data import partition
from splitft.data.holdout import hold_out, take_some
from splitft.data.partition import PartitionReport
from splitft.data.records import Records, read_records
from splitft.data.report import ClientReport, DataReport, length_quantiles
from splitft.data.rows import Indices, Rows, pack
from splitft.data.tokenize import Dropped, tokenize
from splitft.errors import DataError
from splitft.job.settings import DataSettings


@dataclass(frozen=True)
class ClientData:
    """Training rows and held-out rows of one client; `eval` may be empty."""

    name: str
    train: Rows
    eval: Rows


@dataclass(frozen=True)
class Prepared:
    """The data of all clients."""

    clients: list[ClientData]
    report: DataReport


def prepare(job: DataSettings, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    """Read the job's data and deal them to the clients.

    Held-out rows are split off first, by document; then both sides are dealt alike. With natural sites
    (by_column, files) every site with at least 2 documents has held-out rows.

    Raises:
        DataError: Data that cannot be read or dealt as the job asks; says what to change.
    """
    # Read all rows, and find the sites where they lie.
    records = read_records(job)
    sites, site_names = _natural_sites(job, records)
    num_sites = len(site_names)
    if num_sites and "clients" in job.model_fields_set and num_sites > job.clients:
        raise DataError(
            f"partition.method {job.partition.method} finds {num_sites} clients in the data, but clients is "
            f"{job.clients}: set clients={num_sites}, or leave clients out of the job"
        )

    # Split off the held-out rows, and thin out both sides.
    train_indices, eval_indices = hold_out(records.documents, job.eval_fraction, job.seed, sites, site_names)
    train_indices = take_some(train_indices, job.max_train_samples, sites[train_indices], job.seed, "train")
    eval_indices = take_some(eval_indices, job.max_eval_samples, sites[eval_indices], job.seed, "eval")
    unused = len(records) - len(train_indices) - len(eval_indices)

    # Tokenise.
    max_length = None if job.packing else job.max_length
    train, dropped = tokenize(records, train_indices, tokenizer, max_length, job.completion_only_loss)
    held, dropped_held = tokenize(records, eval_indices, tokenizer, max_length, job.completion_only_loss)
    for rows, side in ((train, "training"), (held, "held-out")):
        if not len(rows):
            raise DataError(
                f"none of the {side} rows can be used: each has fewer than 2 tokens, or no token with loss "
                f"within max_length={job.max_length}"
            )

    # Deal both sides, pack, and count.
    dealt, report = _deal(job, records, train)
    held_dealt = _deal_held_out(job, report, held)
    clients, entries = [], []
    edges = report.edges or partition.length_edges(train.full_lengths, job.partition.num_buckets)
    for number, name in enumerate(report.clients):
        own, own_held = train.select(dealt[number]), held.select(held_dealt[number])
        blocks = pack(own, job.max_length) if job.packing else own
        if not len(blocks):
            raise DataError(f"client {name!r} has no training rows: raise partition.min_rows or add data")
        clients.append(ClientData(name, blocks, pack(own_held, job.max_length) if job.packing else own_held))
        counts = report.counts[number]
        if job.partition.method != "dirichlet":
            classes = partition.length_classes(own.full_lengths, edges)
            counts = tuple(np.bincount(classes, minlength=len(edges) + 1).tolist())
        entries.append(
            ClientReport(
                name=name,
                train_rows=len(own),
                eval_rows=len(own_held),
                train_tokens=own.tokens,
                eval_tokens=own_held.tokens,
                train_blocks=len(blocks),
                length_quantiles=length_quantiles(own),
                class_counts=counts,
            )
        )
    return Prepared(
        clients, _report(job, records, report, edges, tuple(entries), (dropped, dropped_held), unused)
    )


def _natural_sites(job: DataSettings, records: Records) -> tuple[Indices, Sequence[str]]:
    """Site of each record and the sites' names; one place and no name where rows are dealt freely."""
    if job.partition.method == "files":
        return records.sources, records.source_names
    if job.partition.method == "by_column":
        names, sites = partition.label_classes(_labels(job, records.columns))
        return sites, names
    return np.zeros(len(records), dtype=np.int64), ()


def _labels(job: DataSettings, columns: dict[str, list[str]]) -> list[str]:
    column = job.partition.column
    if column is None:
        raise DataError(f"partition.method {job.partition.method} needs partition.column")
    return columns[column]


def _deal(job: DataSettings, records: Records, train: Rows) -> tuple[list[Indices], PartitionReport]:
    """Deal the training rows by the job's method."""
    config = job.partition
    quota = partition.Quota(config.min_rows, config.samples_per_client, job.seed)
    match config.method:
        case "files":
            return partition.files(train.sources, records.source_names, quota)
        case "by_column":
            labels = _labels(job, train.columns)
            lost = set(_labels(job, records.columns)) - set(labels)
            if lost:
                raise DataError(
                    f"no training row is left where {config.column} is {first_few(sorted(lost), 5)}: raise "
                    "max_train_samples or max_length, or leave these rows out of the data"
                )
            return partition.by_column(labels, quota)
        case "iid":
            return partition.iid(len(train), job.clients, quota)
        case "dirichlet":
            labels = _labels(job, train.columns)
            return partition.dirichlet(labels, job.clients, config.alpha, quota)
        case "length_dirichlet":
            return partition.length_dirichlet(
                train.full_lengths, job.clients, config.alpha, config.num_buckets, quota
            )


def _deal_held_out(job: DataSettings, report: PartitionReport, held: Rows) -> list[Indices]:
    """Deal the held-out rows: to their own site, or in the proportions of the training rows."""
    number = {label: i for i, label in enumerate(report.classes)}
    if job.partition.method in ("by_column", "files"):
        if job.partition.method == "files":
            owners = held.sources
        else:
            owners = np.asarray([number[label] for label in _labels(job, held.columns)], dtype=np.int64)
        return [np.flatnonzero(owners == client).astype(np.int64) for client in range(len(report.clients))]
    if job.partition.method == "length_dirichlet":
        classes = partition.length_classes(held.full_lengths, report.edges)
    elif job.partition.method == "dirichlet":
        labels = _labels(job, held.columns)
        classes = np.asarray([number.get(label, -1) for label in labels], dtype=np.int64)
    else:
        classes = np.zeros(len(held), dtype=np.int64)
    return partition.held_out(report, classes, seed=job.seed)


def _report(
    job: DataSettings,
    records: Records,
    report: PartitionReport,
    edges: tuple[int, ...],
    clients: tuple[ClientReport, ...],
    dropped: tuple[Dropped, Dropped],
    unused: int,
) -> DataReport:
    by_label = job.partition.method == "dirichlet"
    return DataReport(
        method=report.method,
        alpha=job.partition.alpha if job.partition.method in ("length_dirichlet", "dirichlet") else None,
        classes=report.classes if by_label else partition.length_names(edges),
        class_title=str(job.partition.column) if by_label else "length of a row in tokens",
        edges=() if by_label else edges,
        document_of=records.document_of,
        clients=clients,
        dropped_blank=records.dropped_blank,
        dropped_short=sum(side.short for side in dropped),
        dropped_without_loss=sum(side.without_loss for side in dropped),
        truncated=sum(side.truncated for side in dropped),
        unused=unused,
    )

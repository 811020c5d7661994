"""A job's data, ready to train on: read, hold out, tokenise, deal, pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from splitft.data.holdout import hold_out, take_some
from splitft.data.partition.deal import Dealt, PartitionReport, held_out, iid
from splitft.data.partition.dirichlet import dirichlet, label_classes
from splitft.data.partition.length_dirichlet import (
    length_classes,
    length_dirichlet,
    length_edges,
    length_names,
    length_report,
)
from splitft.data.partition.registry import TrainingRows, deal_by
from splitft.data.partition.shares import Quota
from splitft.data.partition.sites import natural_sites
from splitft.data.records import Records, read_records
from splitft.data.report import ClientReport, DataReport, length_counts, length_quantiles
from splitft.data.rows import Indices, Rows, pack
from splitft.data.tokenize import tokenize
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
    (by_column, files) every site with at least 2 documents has held-out rows. Raises DataError, with the
    remedy, for data that cannot be read or dealt as the job asks.
    """
    # Read all rows, and find the sites where they lie.
    records, config = read_records(job), job.partition
    sites, site_names = _natural_sites(job, records)
    num_sites = len(site_names)
    if num_sites and "clients" in job.model_fields_set and num_sites > job.clients:
        raise DataError(
            f"partition.method {config.method} finds {num_sites} clients in the data, but clients is "
            f"{job.clients}: set clients={num_sites}, or leave clients out of the job"
        )

    # Split off the held-out rows, and thin out both sides.
    train_indices, eval_indices = hold_out(records.documents, job.eval_fraction, job.seed, sites, site_names)
    train_indices = take_some(train_indices, job.max_train_samples, sites[train_indices], job.seed, "train")
    eval_indices = take_some(eval_indices, job.max_eval_samples, sites[eval_indices], job.seed, "eval")

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

    # Deal both sides, and pack.
    if num_sites:
        quota = Quota(config.min_rows, config.samples_per_client, job.seed)
        dealt, report = natural_sites(config.method, sites[train.records], site_names, quota)
        held_dealt = [np.flatnonzero(sites[held.records] == site) for site in range(num_sites)]
    else:
        dealt, report = _deal(job, records, train)
        held_dealt = held_out(report, _classes_of(job, records, held, report), seed=job.seed)
    own, own_held = [train.select(i) for i in dealt], [held.select(i) for i in held_dealt]
    clients = []
    for name, rows, held_rows in zip(report.clients, own, own_held, strict=True):
        if job.packing:
            rows, held_rows = pack(rows, job.max_length), pack(held_rows, job.max_length)
        if not len(rows):
            raise DataError(f"client {name!r} has no training rows: raise partition.min_rows or add data")
        clients.append(ClientData(name, rows, held_rows))

    # Count, by label where labels were dealt, else by length.
    by_label = config.method == "dirichlet"
    edges = () if by_label else report.edges or length_edges(train.full_lengths, config.num_buckets)
    shown = DataReport(
        method=config.method,
        alpha=config.alpha if config.method in ("length_dirichlet", "dirichlet") else None,
        classes=report.classes if by_label else length_names(edges),
        class_title=str(config.column) if by_label else "length of a row in tokens",
        edges=edges,
        document_of=records.document_of,
        clients=tuple(
            ClientReport(
                name=client.name,
                train_rows=len(rows),
                eval_rows=len(held_rows),
                train_tokens=rows.tokens,
                eval_tokens=held_rows.tokens,
                train_blocks=len(client.train),
                length_quantiles=length_quantiles(rows),
                class_counts=label_counts if by_label else length_counts(rows, edges),
            )
            for client, rows, held_rows, label_counts in zip(
                clients, own, own_held, report.counts, strict=True
            )
        ),
        dropped_blank=records.dropped_blank,
        dropped_short=dropped.short + dropped_held.short,
        dropped_without_loss=dropped.without_loss + dropped_held.without_loss,
        truncated=dropped.truncated + dropped_held.truncated,
        unused=len(records) - len(train_indices) - len(eval_indices),
    )
    return Prepared(clients, shown)


def _natural_sites(job: DataSettings, records: Records) -> tuple[Indices, Sequence[str]]:
    """Site of each record and the sites' names; one place and no name where rows are dealt freely."""
    if job.partition.method == "files":
        return records.sources, records.source_names
    if job.partition.method == "by_column":
        names, sites = label_classes(records.labels)
        return sites, names
    return np.zeros(len(records), dtype=np.int64), ()


def _deal(job: DataSettings, records: Records, train: Rows) -> Dealt:
    """Deal the training rows freely, by the job's method."""
    config = job.partition
    quota = Quota(config.min_rows, config.samples_per_client, job.seed)
    if config.method == "iid":
        return iid(len(train), job.clients, quota)
    if config.method == "dirichlet":
        return dirichlet([records.labels[i] for i in train.records], job.clients, config.alpha, quota)
    if config.method == "length_dirichlet":
        return length_dirichlet(train.full_lengths, job.clients, config.alpha, config.num_buckets, quota)
    labels = tuple(records.labels[i] for i in train.records) if records.labels else ()
    own = deal_by(
        config.method,
        TrainingRows(np.asarray(train.full_lengths), labels),
        job.clients,
        config,
        quota.generator(config.method),
    )
    return own, length_report(own, train.full_lengths, config.num_buckets)


def _classes_of(job: DataSettings, records: Records, held: Rows, report: PartitionReport) -> Indices:
    """Class of each held-out row among those of the training rows; -1 for a label that they lack."""
    if job.partition.method == "dirichlet":
        number = {label: i for i, label in enumerate(report.classes)}
        return np.asarray([number.get(records.labels[i], -1) for i in held.records], dtype=np.int64)
    return length_classes(held.full_lengths, report.edges)  # iid has no edges, and one class

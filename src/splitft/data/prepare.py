"""A job's data, ready to train on: read, hold out, tokenise, deal, pack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from splitft.common.text import first_few
from splitft.data.canaries import with_canaries
from splitft.data.holdout import hold_out, take_some
from splitft.data.leakage import count_leaked, text_digest
from splitft.data.notices import data_notices
from splitft.data.objects import sources_of
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
from splitft.data.records import Records, make_records, read_eval_records, read_records
from splitft.data.redaction.redaction import make_redaction
from splitft.data.redaction.report import redacted, redaction_notice, without_rare
from splitft.data.report import ClientReport, DataReport, length_counts, length_quantiles
from splitft.data.rows import Indices, Rows, chunk, pack
from splitft.data.tokenize import tokenize
from splitft.errors import DataError
from splitft.job.data import DataSettings


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
    notices: list[str]  # facts of the data that a person must know


def prepare(
    job: DataSettings,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: Any = None,
    eval_dataset: Any = None,
) -> Prepared:
    """Read the job's data and deal them to the clients.

    Evaluation rows are those of the job's evaluation set; without one, rows are held out first, by document.
    Both sides are dealt alike. With natural sites (by_column, files) every site with at least 2 documents has
    held-out rows. train_dataset, eval_dataset: objects in the place of what the job names, as of
    `splitft.run`. Raises DataError, with the remedy, for data that cannot be read or dealt as the job asks.
    """
    # Read all rows, redact them, and find the sites where they lie.
    given = None if train_dataset is None else sources_of("train_dataset", train_dataset, job)
    redaction = make_redaction(job.redact, tokenizer)
    records, removed = redacted(redaction, read_records(job) if given is None else make_records(job, given))
    config = job.partition
    sites, site_names = _natural_sites(job, records)
    check_site_count(job, site_names)

    # Split off the held-out rows, or read the evaluation set; thin out both sides.
    if job.eval_set:
        given = None if eval_dataset is None else sources_of("eval_dataset", eval_dataset, job)
        found_rows = read_eval_records(job) if given is None else make_records(job, given, evaluation=True)
        eval_records, eval_removed = redacted(redaction, found_rows)
        train_indices = np.arange(len(records), dtype=np.int64)
        eval_indices = np.arange(len(eval_records), dtype=np.int64)
        eval_places = (
            eval_records.sources if isinstance(job.eval_files, dict) else np.zeros_like(eval_indices)
        )
    else:
        check_enough_rows(job, records)
        eval_records, eval_places, eval_removed = records, sites, removed
        train_indices, eval_indices = hold_out(
            records.documents, job.eval_fraction, job.seed, sites, site_names
        )
    found = len(train_indices) + len(eval_indices)
    train_indices = take_some(train_indices, job.max_train_samples, sites[train_indices], job.seed, "train")
    eval_indices = take_some(eval_indices, job.max_eval_samples, eval_places[eval_indices], job.seed, "eval")

    # Tokenise.
    whole = job.packing or job.truncation_mode == "chunk"  # rows are cut once they are dealt
    max_length = None if whole else job.max_length
    reader, marks = (redaction.tokenizer, redaction.neutralise) if redaction else (tokenizer, None)
    only = job.completion_only_loss
    train, dropped = tokenize(records, train_indices, reader, max_length, only, marks)
    held, dropped_held = tokenize(eval_records, eval_indices, reader, max_length, only, marks)
    for rows, side in ((train, "training"), (held, "evaluation" if job.eval_set else "held-out")):
        if not len(rows):
            raise DataError(
                f"none of the {side} rows can be used: each has fewer than 2 tokens, or no token with loss "
                f"within max_length={job.max_length}: raise max_length, or look at the rows"
            )

    # Deal both sides, redact what is rare in a client's own rows, and pack or cut.
    if site_names:
        quota = Quota(config.min_rows, config.samples_per_client, job.seed)
        dealt, report = natural_sites(config.method, sites[train.records], site_names, quota)
    else:
        dealt, report = _deal(job, records, train)
    if isinstance(job.eval_files, dict):
        held_dealt = _own_rows(eval_records, held, report.clients)
    elif site_names and not job.eval_set:
        held_dealt = [np.flatnonzero(sites[held.records] == site) for site in range(len(site_names))]
    else:
        held_dealt = held_out(report, _classes_of(job, eval_records, held, report), seed=job.seed)
    own, own_held = [train.select(i) for i in dealt], [held.select(i) for i in held_dealt]
    before = [(own, removed), (own_held, eval_removed)]
    own, own_held, rare = without_rare(redaction, own, own_held)
    clients = []
    for name, rows, held_rows in zip(report.clients, own, own_held, strict=True):
        if whole:
            cut = pack if job.packing else chunk
            rows, held_rows = cut(rows, job.max_length), cut(held_rows, job.max_length)
        if not len(rows):
            raise DataError(f"client {name!r} has no training rows: raise partition.min_rows or add data")
        clients.append(ClientData(name, with_canaries(rows, job, name, tokenizer), held_rows))

    # Count, by label where labels were dealt, else by length.
    by_label = config.method == "dirichlet"
    edges = () if by_label else report.edges or length_edges(train.full_lengths, config.num_buckets)
    trained = {text_digest(records.samples[i]) for i in {int(i) for rows in own for i in rows.records}}
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
                leaked_eval_rows=count_leaked((eval_records.samples[i] for i in held_rows.records), trained),
            )
            for client, rows, held_rows, label_counts in zip(
                clients, own, own_held, report.counts, strict=True
            )
        ),
        eval_set=job.eval_set,
        dropped_blank=_both(records, eval_records, lambda read: read.dropped_blank),
        dropped_without=_both(records, eval_records, lambda read: read.dropped_without),
        dropped_short=dropped.short + dropped_held.short,
        dropped_without_loss=dropped.without_loss + dropped_held.without_loss,
        truncated=dropped.truncated + dropped_held.truncated,
        truncated_tokens=sum(int((rows.full_lengths - rows.lengths).sum()) for rows in (train, held)),
        read_tokens=sum(int(rows.full_lengths.sum()) for rows in (train, held)),
        unused=found - len(train_indices) - len(eval_indices),
    )
    notes = dict.fromkeys((*records.notes, *eval_records.notes, *redaction_notice(redaction, before, rare)))
    return Prepared(clients, shown, [*notes, *data_notices(job, records.source_names, shown)])


def check_site_count(job: DataSettings, names: Sequence[str]) -> None:
    """Raise DataError where the job states another number of clients than there are natural sites."""
    if not names or "clients" not in job.model_fields_set:
        return
    method, found = job.partition.method, len(names)
    if found > job.clients or (method == "files" and found < job.clients):
        unless = "" if isinstance(job.data_files, dict) else "; partition.method=iid deals all rows anew"
        there = f"{found} client{'s' * (found > 1)} in the data ({first_few(names, 5)})"
        raise DataError(
            f"partition.method {method} finds {there}, but clients is {job.clients}: set clients={found}, or "
            f"leave clients out of the job{unless}"
        )


def check_enough_rows(job: DataSettings, records: Records) -> None:
    """Raise DataError for a single row, with the way to make more of a text file, or to hold none out."""
    if len(records) > 1:
        return
    more = ""
    if records.places[0].partition(", line")[0].lower().endswith(".txt") and job.sample_by != "line":
        more = f"; a row is a {job.sample_by} here: sample_by=line makes one of each line"
    raise DataError(
        f"{records.places[0]}: the only row of the data, and some must be held out: add data, or name rows "
        f"to evaluate on as eval_files{more}"
    )


def _both(records: Records, eval_records: Records, count: Callable[[Records], int]) -> int:
    return count(records) + (count(eval_records) if eval_records is not records else 0)


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


def _own_rows(eval_records: Records, held: Rows, clients: Sequence[str]) -> list[Indices]:
    """Return each client's rows of {client: file}. Raises DataError for a name that is no client's."""
    unknown = [name for name in eval_records.source_names if name not in clients]
    if unknown:
        raise DataError(
            f"eval_files: {first_few(unknown, 5)}: no client has this name; there are {', '.join(clients)}"
        )
    number = {name: source for source, name in enumerate(eval_records.source_names)}
    sources = eval_records.sources[held.records]
    return [np.flatnonzero(sources == number.get(name, -1)) for name in clients]


def _classes_of(job: DataSettings, records: Records, held: Rows, report: PartitionReport) -> Indices:
    """Class of each evaluation row among those of the training rows; -1 for one that they lack."""
    if job.partition.method in ("dirichlet", "by_column") and records.labels:
        number = {label: i for i, label in enumerate(report.classes)}
        return np.asarray([number.get(records.labels[i], -1) for i in held.records], dtype=np.int64)
    if job.partition.method in ("files", "by_column"):
        return np.full(len(held), -1, dtype=np.int64)
    return length_classes(held.full_lengths, report.edges)  # iid has no edges, and one class

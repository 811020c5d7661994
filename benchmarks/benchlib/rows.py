"""Rows to train on: blocks of one length, or paragraphs of the built-in speeches dealt by their length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitft import Job
from splitft.data import Rows, prepare
from splitft.job import load_job
from splitft.running.fallback import resolve_sources
from splitft.weights.load import load_tokenizer

VOCABULARY = 50257
MODEL = "builtin:smollm2-135m"  # whose tokenizer cuts the speeches


def rows_of(lengths: Sequence[int], seed: int, vocabulary: int = VOCABULARY) -> Rows:
    """Return rows of these lengths with random ids; every token carries loss."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, vocabulary, length).astype(np.int32) for length in lengths]
    return Rows(ids, [row.copy() for row in ids], np.asarray(lengths), np.arange(len(ids)))


def fixed_rows(clients: int, length: int, number: int = 64, vocabulary: int = VOCABULARY) -> dict[str, Rows]:
    """Return as many rows of one length for every client."""
    return {f"client-{i}": rows_of([length] * number, i, vocabulary) for i in range(clients)}


def skewed_rows(clients: int, max_length: int, alpha: float = 0.1) -> dict[str, Rows]:
    """Return random ids in the lengths of State of the Union paragraphs, dealt by length (Dirichlet)."""
    wanted = [
        f"model_name_or_path={MODEL}", f"max_length={max_length}", f"partition.alpha={alpha}",
        f"clients={clients}", "cuts=2",
    ]  # fmt: skip
    job: Job = resolve_sources(load_job("fixed-cuts", wanted))[0]
    tokenizer = load_tokenizer(job.model_name_or_path, job.model_revision)
    dealt = prepare(job, tokenizer).clients
    return {data.name: rows_of(data.train.lengths.tolist(), seed=i) for i, data in enumerate(dealt)}

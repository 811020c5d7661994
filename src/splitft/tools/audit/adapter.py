"""The attack on a finished run's adapter: scores of its rows and canaries by the run's own job and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import Tensor

from splitft.common.seeds import numpy_generator
from splitft.data import ClientData, collate
from splitft.data.canaries import canaries_of, references_of, sentence_ids
from splitft.data.rows import IGNORE, Rows
from splitft.errors import JobError
from splitft.job import load_job
from splitft.lora.blocks import to_device
from splitft.model.layout import PaddedBatch
from splitft.model.split_model import SplitModel, StepId
from splitft.running.export import load_adapter
from splitft.running.prepare import Assembly, assemble
from splitft.tools.audit.attacks.adapter import AdapterReading, Scores, levels_of, membership

REFERENCES, MEMBERS = 511, 200  # sentences to rank canaries among; rows of each kind
_ROWS = 16  # of a batch
_CALM = StepId("audit", 0, 0, 0, train=False)


def read_adapter(
    run: Path, *, references: int = REFERENCES, rows: int = MEMBERS, console: Console | None = None
) -> list[AdapterReading]:
    """Attack the adapter of a finished run, with the job and the data that its folder names.

    references: at least 256. rows: most training rows, and most held-out ones, of each client. The run's
    start stands in for a reference model. Raises JobError where the folder holds no run with an adapter.
    """
    if not (run / "job.yaml").is_file() or not (run / "adapter" / "adapter_config.json").is_file():
        raise JobError(f"{run} holds no run with an adapter; give the output_dir of a run")
    start = assemble(load_job(run / "job.yaml"), console or Console(quiet=True))
    adapter = to_device(load_adapter(run / "adapter", start.split_model.slots, start.job), start.device)
    return [attack_client(start, client, adapter, references, rows) for client in start.clients]


def attack_client(
    start: Assembly,
    client: ClientData,
    adapter: Mapping[int, Mapping[str, Tensor]],
    references: int,
    rows: int,
) -> AdapterReading:
    """Attack an adapter with the rows and the canaries of one client. references, rows: of `read_adapter`."""
    if references < 256:
        raise JobError(f"references: {references} rank a canary too coarsely: take 256 or more")
    job = start.job

    # Membership: a draw of rows of each kind, without canaries.
    found = membership(*row_scores(start, client, adapter, rows))
    if not job.canaries:
        return AdapterReading(client.name, found, (), references)

    # Canaries: the loss of the six words, and nothing else of the sentence.
    canaries = canaries_of(job, client.name)
    planted = _gains(start, adapter, _secrets([one.text for one in canaries], start))
    others = _gains(start, adapter, _secrets(references_of(job, client.name, references), start))
    levels = levels_of([one.copies for one in canaries], planted, others)
    return AdapterReading(client.name, found, levels, references)


def row_scores(
    start: Assembly, client: ClientData, adapter: Mapping[int, Mapping[str, Tensor]], rows: int
) -> tuple[Scores, Scores]:
    """Return how much lower an adapter makes the loss of a token of each row: training rows, held-out rows.

    rows: most of each kind. Canaries are not among them.
    """
    own = client.train.select(np.flatnonzero(client.train.records >= 0))
    drawn = [_some(part, rows, start.job.seed, client.name) for part in (own, client.eval)]
    trained, held_out = (_gains(start, adapter, part) / np.maximum(part.lengths - 1, 1) for part in drawn)
    return trained, held_out


def _gains(start: Assembly, adapter: Mapping[int, Mapping[str, Tensor]], rows: Rows) -> Scores:
    """Return how much lower an adapter makes the loss of each row than the run's start has it."""
    before, after = (
        _losses(start.split_model, of, rows, start.pad_token_id) for of in (start.adapter, adapter)
    )
    return before - after


def _secrets(texts: Sequence[str], start: Assembly) -> Rows:
    """Return sentences as rows with loss on what follows their form alone."""
    ids = sentence_ids(texts, start.tokenizer)
    heads = [text[: text.index(" is ") + 3] for text in texts]
    labels = []
    for own, head in zip(ids, heads, strict=True):
        label = own.copy()
        label[: len(start.tokenizer(head)["input_ids"])] = IGNORE
        labels.append(label)
    lengths = np.asarray([len(own) for own in ids], dtype=np.int64)
    return Rows(ids, labels, lengths, np.full(len(ids), -1, dtype=np.int64))


def _some(rows: Rows, most: int, seed: int, client: str) -> Rows:
    if len(rows) <= most:
        return rows
    return rows.select(numpy_generator(seed, "audit", client).permutation(len(rows))[:most])


def _losses(
    model: SplitModel, adapter: Mapping[int, Mapping[str, Tensor]], rows: Rows, pad_token_id: int
) -> Scores:
    """Return the summed loss of each row, (rows,)."""
    model.bind(adapter)
    losses = np.zeros(len(rows))
    order = np.argsort(rows.lengths, kind="stable")
    for first in range(0, len(rows), _ROWS):
        places = order[first : first + _ROWS]
        batch = collate(rows, places, pad_token_id).to(model.device)
        layout = PaddedBatch(batch.attention_mask)
        sums = model.metrics(
            0,
            _CALM,
            layout=layout,
            lengths=batch.lengths,
            labels=batch.labels,
            input_ids=batch.input_ids,
            **layout.inputs,
        )
        assert sums.row_nll is not None
        losses[places] = sums.row_nll.double().numpy()
    return losses

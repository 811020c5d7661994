"""transformers' `compute_metrics`: predictions of held-out rows, and the figures that a function returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import psutil
from torch import Tensor
from transformers import EvalPrediction
from transformers.trainer_pt_utils import atleast_1d, nested_numpify

from splitft.common.text import error_line
from splitft.data import ClientData
from splitft.data.estimates import HeldOutRows
from splitft.data.rows import IGNORE
from splitft.data.sample import held_out_order
from splitft.errors import DataError, JobError
from splitft.history import OwnFigures

ComputeMetrics = Callable[[EvalPrediction], Mapping[str, float]]
Preprocess = Callable[[Tensor, Tensor], Any]  # of logits and labels

COMPUTE, PREPROCESS = "compute_metrics", "preprocess_logits_for_metrics"
PREFIX = "eval_"
# Figures that Trainer gives every evaluation by itself.
RESERVED = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
_FLOAT = 4  # bytes: bfloat16 becomes float32 in numpy


class HeldOutPredictions:
    """Keeps what the model predicts of held-out rows until their evaluation is over.

    Args:
        clients: With all their held-out rows, in the order of all sums.
        seed: Of the job; with it the order in which rows are evaluated.
        taken: Names that the figures must not have.
    """

    def __init__(
        self,
        compute: ComputeMetrics,
        preprocess: Preprocess | None,
        clients: Sequence[ClientData],
        seed: int,
        taken: Collection[str] = (),
    ) -> None:
        self._compute = compute
        self._preprocess = preprocess
        self._clients = clients
        self._seed = seed
        self._taken = {PREFIX + name for name in RESERVED} | set(taken)
        self._kept: dict[str, dict[int, tuple[Any, Tensor]]] = {}  # by client and place in its evaluation

    def keep(self, client: str, place: int, logits: Tensor, labels: Tensor) -> None:
        """Keep a row. place: in the order in which the client evaluates. For the rest see `KeepLogits`."""
        logits, labels = logits[None], labels[None]
        found: Any = logits
        if self._preprocess is not None:
            try:
                found = self._preprocess(logits, labels)
            except Exception as error:  # it is any code
                raise JobError(f"{PREPROCESS} failed: {error_line(error)}") from error
        self._kept.setdefault(client, {})[place] = one_row(found), one_row(labels)

    def figures(self, held_out: Mapping[str, HeldOutRows]) -> OwnFigures:
        """Return the figures of the rows kept since the last call: of each client, and of all together.

        Raises JobError where the function fails or returns anything but finite numbers.
        """
        kept, self._kept = self._kept, {}
        rows: dict[str, list[tuple[Any, Tensor]]] = {}
        for client in self._clients:
            if own := kept.pop(client.name, None):
                sample = held_out[client.name].sample
                order = held_out_order(client.eval.lengths, sample, self._seed, client.name)
                rows[client.name] = [own[place] for place in sorted(own, key=order.__getitem__)]
        found: dict[str | None, dict[str, float]] = {}
        if len(rows) > 1:
            found |= {
                name: self._computed(list(own), f" on the rows of {name}") for name, own in rows.items()
            }
        every, names = [row for own in rows.values() for row in own], list(rows)
        rows.clear()  # with `every`, the arrays of all rows take the place of the rows
        if every:
            found[None] = self._computed(every, "")
        return found if len(names) != 1 else found | {names[0]: found[None]}

    def _computed(self, rows: list[tuple[Any, Tensor]], where: str) -> dict[str, float]:
        """Return the function's figures, by Trainer's names. The list of rows is emptied."""
        labels, predicted = padded([row[1] for row in rows]), [row[0] for row in rows]
        rows.clear()
        prediction = EvalPrediction(predictions=padded(predicted), label_ids=labels)
        try:
            found: Any = self._compute(prediction)
        except Exception as error:  # it is any code
            raise JobError(f"{COMPUTE} failed{where}: {error_line(error)}") from error
        if not isinstance(found, Mapping):
            came = type(found).__name__
            raise JobError(f"{COMPUTE} must return a dict of numbers by name, it returned a {came}")
        named: dict[str, float] = {}
        for key, value in found.items():
            if not isinstance(key, str) or not key.removeprefix(PREFIX):
                raise JobError(f"{COMPUTE} must name its numbers by texts, one name is {key!r:.60}")
            name = PREFIX + key.removeprefix(PREFIX)
            if name in self._taken:
                raise JobError(f"{COMPUTE} returned {key}, a name that is taken ({name}): choose another one")
            named[name] = number_of(key, value, where)
        return named


def number_of(key: str, value: Any, where: str) -> float:
    """Return a figure as a float. Raises JobError where it is no finite number."""
    plain = value
    if hasattr(value, "item") and math.prod(value.shape) == 1:  # of numpy or torch
        plain = value.item()
    if not isinstance(plain, int | float):
        raise JobError(f"{COMPUTE} must return numbers; {key} is a {type(value).__name__}{where}")
    if not math.isfinite(plain):
        raise JobError(f"{COMPUTE} must return finite numbers; {key} is {plain}{where}")
    return float(plain)


def one_row(found: Any) -> Any:
    """Return the predictions of a row on the CPU: a tensor, or tuples, lists and dicts of tensors.

    Raises JobError where a tensor's first dimension is not that of one row.
    """
    if isinstance(found, Tensor):
        if len(found := atleast_1d(found.detach())) == 1:
            return found.cpu()
        raise JobError(
            f"{PREPROCESS} gets one row at a time and must keep its dimension: (1, …), it returned "
            f"{tuple(found.shape)}"
        )
    if isinstance(found, list | tuple) and found:
        return type(found)(one_row(part) for part in found)
    if isinstance(found, Mapping) and found:
        return {key: one_row(part) for key, part in found.items()}
    raise JobError(f"{PREPROCESS} must return a tensor or several, it returned {found!r:.60}")


def padded(rows: list[Any]) -> Any:
    """Return rows as one array, or a tree of arrays as the rows are, with -100 where a row is shorter.

    The same as transformers' `nested_concat` of all. A list of tensors is emptied, row by row, so that
    memory holds either a row or its copy. Raises JobError where rows do not go together.
    """
    first = rows[0]
    try:
        if isinstance(first, Mapping):
            return {key: padded([row[key] for row in rows]) for key in first}
        if not isinstance(first, Tensor):
            return type(first)(padded(list(parts)) for parts in zip(*rows, strict=True))
        start: Any = nested_numpify(first)
        shape = (len(rows), *first.shape[1:])
        if first.ndim > 1:
            shape = (len(rows), max(row.shape[1] for row in rows), *first.shape[2:])
        array = np.empty(shape, start.dtype)
        for place in range(len(rows)):
            row = nested_numpify(rows[place])[0]
            rows[place] = None
            if first.ndim > 1:
                array[place, len(row) :] = IGNORE
                array[place, : len(row)] = row
            else:
                array[place] = row
        return array
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise JobError(f"{PREPROCESS} returned other forms for other rows: {error_line(error)}") from error


def check_functions(compute: Any, preprocess: Any) -> None:
    """Raise JobError where these are no functions, or the second has nothing to prepare for."""
    for name, function in ((COMPUTE, compute), (PREPROCESS, preprocess)):
        if function is not None and not callable(function):
            raise JobError(f"{name} must be a function, not a {type(function).__name__}")
    if preprocess is not None and compute is None:
        raise JobError(f"{PREPROCESS} goes with {COMPUTE}")


def check_rows(clients: Sequence[ClientData], words: int, *, reduced: bool) -> None:
    """Raise DataError where there is nothing to predict, JobError where the logits exceed the free memory.

    words: of the vocabulary. reduced: whether the logits are reduced row by row.
    """
    lengths = {client.name: client.eval.lengths for client in clients if len(client.eval)}
    if not lengths:
        raise DataError(f"{COMPUTE} needs held-out rows, and there are none: give an eval_dataset")
    if reduced:
        return
    count, longest = sum(map(len, lengths.values())), max(int(own.max()) for own in lengths.values())
    # All rows together, after the largest client's beside them.
    most = max(len(own) * int(own.max()) for own in lengths.values()) if len(lengths) > 1 else 0
    needed, free = (count * longest + most) * words * _FLOAT, psutil.virtual_memory().available
    if needed > free:
        raise JobError(
            f"{COMPUTE} gets the logits of all held-out rows: {count} rows of up to {longest} tokens over "
            f"{words} words take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: give "
            f"{PREPROCESS}, which reduces each row's (such as logits.argmax(-1)), or lower max_eval_samples"
        )

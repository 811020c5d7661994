"""Try a split on one model, first with dummy ids at the server, then with the real ones."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig

from splitft.common.text import error_line
from splitft.errors import ModelError
from splitft.model.slots import AdapterSlots
from splitft.model.split_model import ServerInputs
from splitft.proof.compare import Result, compare, run_split, run_whole
from splitft.proof.guards import independence, padding, vacuity
from splitft.proof.harness import ProbeRows, make_rows, problem_of
from splitft.proof.training import silent_blocks
from splitft.weights.shrink import tiny_random_model

_SCALES = (0.2, 0.08, 0.02)  # of random weights, tried until the whole model answers finite numbers


@dataclass(frozen=True)
class Wanted:
    """The splits of one model that a proof must cover."""

    cuts: tuple[int, ...]
    tail: int | None = None  # first block of the tail; None: no three-part split is tried
    tail_decides: bool = False  # the tail is asked for; else it is only tried, at the first cut
    only_tail: bool = False  # the two-part split is not asked for
    guard_all: bool = True  # guard every cut, not only the first, whose trunk holds the blocks of all others
    slots: AdapterSlots | None = None  # the model trains with adapters here, and every block's must


@dataclass
class SplitTrial:
    """Results of the comparisons with one way of feeding the server's embeddings."""

    server_inputs: ServerInputs = "dummy_ids"
    logits: float = 0.0  # largest difference from the whole model's
    gradients: float = 0.0
    problems: dict[int, str] = field(default_factory=dict)  # reason of a refusal, by cut
    tail_exact: bool | None = None  # None: not tried

    @property
    def first_problem(self) -> str:
        return next(iter(self.problems.values()), "")


@dataclass(frozen=True)
class _Whole:
    """The whole model's result on rows, and the noise between two identical runs' gradients."""

    rows: ProbeRows
    result: Result
    noise: float


class RefusedError(Exception):
    """Nothing can be proven about a model; the message says why."""


def try_split(model: Any, wanted: Wanted, seed: int) -> tuple[SplitTrial, SplitTrial]:
    """Return the trial with dummy ids, and the trial that decides: with real ids where dummy ids fail.

    The model is in the mode that is proven. Raises RefusedError where the whole model cannot be measured
    against, and ModelError where it has no list of blocks.
    """
    whole = _whole(model, wanted, seed)
    dummy, real = SplitTrial("dummy_ids"), SplitTrial("input_ids")
    for cut in wanted.cuts:  # the first cut that fails decides
        _try_cut(model, whole, dummy, wanted, cut, seed)
        if dummy.problems:
            break
    else:
        return dummy, dummy
    for cut in wanted.cuts:  # all, so that a refusal can name those that are exact
        _try_cut(model, whole, real, wanted, cut, seed)
    return dummy, real


def finite_random_model(config: PreTrainedConfig, seed: int) -> Any:
    """Return a random model of a small configuration, with finite results where a scale gives them."""
    for scale in _SCALES:
        model = tiny_random_model(config, seed, scale)
        with suppress(Exception):  # a model that fails is refused where it is compared
            if run_whole(model, make_rows(model, seed=seed), ()).finite:
                break
    return model


def _try_cut(model: Any, whole: _Whole, trial: SplitTrial, wanted: Wanted, cut: int, seed: int) -> None:
    tail = wanted.tail if wanted.tail is not None and cut < wanted.tail else None
    rows, result, inputs = whole.rows, whole.result, trial.server_inputs

    def two_parts() -> str:
        found = "" if wanted.only_tail and tail is not None else _compare(model, whole, trial, cut, None)
        if found or not (wanted.guard_all or cut == wanted.cuts[0]):
            return found
        return (
            vacuity(model, rows, result, cut, inputs)
            or (independence(model, rows, result, cut, seed) if inputs == "dummy_ids" else "")
            or padding(model, rows, result, cut, inputs)
        )

    problem = problem_of(two_parts, f"cut {cut}: ")
    if tail is not None and (wanted.tail_decides or trial.tail_exact is None):
        tail_problem = problem_of(
            lambda: _compare(model, whole, trial, cut, tail), f"cut {cut}, tail from block {tail}: "
        )
        trial.tail_exact = trial.tail_exact is not False and not tail_problem
        problem = problem or (tail_problem if wanted.tail_decides else "")
    if problem:
        trial.problems[cut] = problem


def _compare(model: Any, whole: _Whole, trial: SplitTrial, cut: int, tail: int | None) -> str:
    split = run_split(model, whole.rows, cut, tail, trial.server_inputs)
    where = f"cut {cut}" + (f", tail from block {tail}" if tail else "")
    found = compare(whole.result, split, cut, where, whole.noise)
    trial.logits = max(trial.logits, found.logits)
    trial.gradients = max(trial.gradients, found.gradients)
    return found.problem


def _whole(model: Any, wanted: Wanted, seed: int) -> _Whole:
    try:
        rows = make_rows(model, seed=seed)
        first, second = (run_whole(model, rows, wanted.cuts) for _ in range(2))
    except ModelError:
        raise
    except Exception as error:  # a foreign model may raise anything
        raise RefusedError(
            f"the whole model itself fails on rows of token ids ({error_line(error)}). "
            "Choose a model that trains on plain text."
        ) from error
    # Finite and repeatable results, but for noise in gradients, of adapters that all learn.
    if not first.finite:
        raise RefusedError(
            "logits or gradients of the whole model are not finite on random tokens, so nothing can be "
            "proven. Check the model's weights and dtype."
        )
    noise = compare(first, second, wanted.cuts[0], "")
    if not torch.equal(first.logits, second.logits):
        raise RefusedError(
            f"two identical runs of the whole model differ by {noise.logits:.3g}, so nothing can be proven. "
            "Choose another attn_implementation, or call torch.use_deterministic_algorithms(True)."
        )
    if wanted.slots and (silent := silent_blocks(model, wanted.slots, first)):
        raise RefusedError(silent)
    return _Whole(rows, first, noise.gradients)

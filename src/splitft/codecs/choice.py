"""codec: auto: which codec a job goes on with, from what each one does to its own first batches. (ours)

Pure functions: `weigh` measures one codec on rows that have crossed the cut, `choose` takes the measurements
and the job's budget, and says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from splitft.job.sections import CodecBudgetConfig
from splitft.wire.codecs.registry import make_codec

START = "int8"  # what goes before the choice
ACTIVATIONS = ("bf16", "int8", "int4", "int3", "int2")  # from the finest on
GRADIENTS = ("bf16", "int8", "int4", "int3", "int2")


@dataclass(frozen=True)
class Trial:
    """What a codec does to some batches.

    step_bytes: of a local step, on average. lost: share of the energy. loss_change: of the training loss,
    relative; direction: cosine of the trunk adapter's gradient with the one without the codec; None for
    gradients, which change neither.
    """

    what: Literal["activations", "gradients"]
    codec: str
    step_bytes: float
    lost: float
    loss_change: float | None = None
    direction: float | None = None


@dataclass(frozen=True)
class Choice:
    """The codecs that a job goes on with, why, and what that was read off."""

    codec: str
    gradient_codec: str
    why: str
    trials: tuple[Trial, ...]


def candidates(what: Literal["activations", "gradients"], fixed: str | None) -> tuple[str, ...]:
    """Return the codecs to be tried, from the finest on; fixed: the one that the job states."""
    return (fixed,) if fixed else ACTIVATIONS if what == "activations" else GRADIENTS


def layout_bytes(
    name: str, what: Literal["activations", "gradients"], lengths: Sequence[int], width: int
) -> int:
    """Return the bytes of one message of a codec."""
    codec = make_codec(name, what)
    if codec is None:
        return 4 * sum(lengths) * width
    return sum(part.nbytes for part in codec.layout(lengths, width))


def choose(trials: Sequence[Trial], budget: CodecBudgetConfig) -> Choice:
    """Return the codecs for a budget.

    With `step_mb` the finest pair that fits, gradients coarsened first, or the smallest pair where none does.
    Without, the coarsest activations and gradients that lose no more than the budget allows.
    """
    up = [trial for trial in trials if trial.what == "activations"]
    down = [trial for trial in trials if trial.what == "gradients"]
    if budget.step_mb is None:
        one = ([trial for trial in up if _bearable(trial, budget)] or up[:1])[-1]
        other = ([trial for trial in down if _bearable(trial, budget)] or down[:1])[-1]
        why = "the fewest bytes that lose no more than codec_budget allows"
    else:
        pairs = [(one, other) for one in up for other in down if down.index(other) >= _place(one, up)]
        pairs = pairs or [(one, other) for one in up for other in down]
        fit = [pair for pair in pairs if _bytes(pair) <= budget.step_mb * 1e6]
        if fit:
            one, other = min(fit, key=lambda pair: (up.index(pair[0]), down.index(pair[1])))
            why = f"the finest that fits {budget.step_mb:g} MB a step"
        else:
            one, other = min(pairs, key=_bytes)
            why = f"the smallest there is, and more than {budget.step_mb:g} MB a step"
        if not (_bearable(one, budget) and _bearable(other, budget)):
            why += "; it loses more than codec_budget would allow without step_mb"
    return Choice(one.codec, other.codec, f"{why}: {_told(one)}; {_told(other)}", tuple(trials))


def _bearable(trial: Trial, budget: CodecBudgetConfig) -> bool:
    if trial.what == "gradients":
        return trial.lost <= budget.gradient_error
    return abs(trial.loss_change or 0.0) <= budget.loss_change and trial.lost <= budget.activation_error


def _bytes(pair: tuple[Trial, Trial]) -> float:
    return pair[0].step_bytes + pair[1].step_bytes


def _place(trial: Trial, among: Sequence[Trial]) -> int:
    return list(among).index(trial)


def _told(trial: Trial) -> str:
    text = f"{trial.codec} for {trial.what}, {trial.step_bytes / 1e6:.3g} MB a step, loses {trial.lost:.2%}"
    if trial.loss_change is None or trial.direction is None:
        return text
    return f"{text}, loss {trial.loss_change:+.2%}, direction of the trunk's gradient {trial.direction:.4f}"

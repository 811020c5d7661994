"""codec: auto: which codec a job goes on with, from what each one does to its own first batches. (ours)

Pure functions: `weigh` measures one codec on rows that have crossed the cut, `choose` takes the measurements
and the job's budget, and says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from splitft.common.state import State
from splitft.job import Job
from splitft.job.sections import CodecBudgetConfig
from splitft.lora.blocks import Adapter
from splitft.lora.ranks import HeldBlocks
from splitft.model.split_model import SplitModel, StepId
from splitft.server.server import Server
from splitft.server.step import AtCut, trunk_step
from splitft.wire.codecs.registry import make_codec
from splitft.wire.messages import Activations, Message

START = "int8"  # what goes before the choice
ACTIVATIONS = ("bf16", "int8", "int4", "int3", "int2")  # from the finest on
GRADIENTS = ("bf16", "int8", "int4", "int3", "int2")


@dataclass(frozen=True)
class CodecTrial:
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
    trials: tuple[CodecTrial, ...]


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


def choose(trials: Sequence[CodecTrial], budget: CodecBudgetConfig) -> Choice:
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


def _bearable(trial: CodecTrial, budget: CodecBudgetConfig) -> bool:
    if trial.what == "gradients":
        return trial.lost <= budget.gradient_error
    return abs(trial.loss_change or 0.0) <= budget.loss_change and trial.lost <= budget.activation_error


def _bytes(pair: tuple[CodecTrial, CodecTrial]) -> float:
    return pair[0].step_bytes + pair[1].step_bytes


def _place(trial: CodecTrial, among: Sequence[CodecTrial]) -> int:
    return list(among).index(trial)


def _told(trial: CodecTrial) -> str:
    text = f"{trial.codec} for {trial.what}, {trial.step_bytes / 1e6:.3g} MB a step, loses {trial.lost:.2%}"
    if trial.loss_change is None or trial.direction is None:
        return text
    return f"{text}, loss {trial.loss_change:+.2%}, direction of the trunk's gradient {trial.direction:.4f}"


BATCHES = 8  # that codecs are tried on, of all clients together


class CodecChooser:
    """Gathers the first batches of a run, then chooses; holds the choice. Part of the server's state."""

    def __init__(self, model: SplitModel, job: Job, server: Server, clients: Sequence[str]) -> None:
        self._model = model
        self._job = job
        self._server = server
        self._clients = list(clients)
        self._batches: dict[tuple[str, int, int], Activations] = {}
        self.choice: Choice | None = None

    @property
    def names(self) -> str:
        """The codecs of activations and of gradients that hold now, ACTIVATIONS/GRADIENTS."""
        if self.choice is None:
            return f"{START}/{self._job.gradient_codec or START}"
        return f"{self.choice.codec}/{self.choice.gradient_codec}"

    def observe(self, client: str, message: Message) -> None:
        """Note what a client has sent, as it came."""
        if self.choice is None and isinstance(message, Activations) and message.train:
            each = -(-BATCHES // len(self._clients))
            if message.step < each and message.micro_step == 0:
                self._batches[client, message.round, message.step] = message

    def close_round(self) -> str | None:
        """Choose after the first round that somebody trained in; return what to tell, None for nothing."""
        if self.choice is not None or not self._batches:
            return None
        first = min(round_ for _, round_, _ in self._batches)
        batches = [
            (client, message)
            for client in self._clients
            for (name, round_, _), message in sorted(self._batches.items(), key=lambda item: item[0][1:])
            if name == client and round_ == first
        ]
        self._batches = {}
        trials = measure(self._model, self._server, self._job, batches)
        self.choice = choose(trials, self._job.codec_budget)
        return f"codec: auto goes on with {self.names}: {self.choice.why}"

    def summary(self) -> State | None:
        """Return the choice as plain values; None before there is one."""
        return asdict(self.choice) if self.choice else None

    def state(self) -> State:
        """Return what outlasts a round, as a checkpoint holds it."""
        return {"choice": self.summary()}

    def load_state(self, state: State) -> None:
        """Be as `state` was taken."""
        made = state["choice"]
        self.choice = (
            Choice(**made | {"trials": tuple(CodecTrial(**one) for one in made["trials"])}) if made else None
        )


def measure(
    model: SplitModel, server: Server, job: Job, batches: Sequence[tuple[str, Activations]]
) -> list[CodecTrial]:
    """Try every codec on these batches, as the server computes them. Needs `labels: server`."""
    trunk = _Trunk(model, job, server.adapter)
    plain = [
        trunk.through(server.coordinator.holdings[client].held, client, message, message.hidden)
        for client, message in batches
    ]
    trials = []
    for name in candidates("activations", None):
        rounded = [_again(name, "activations", message, message.hidden) for _, message in batches]
        changed = [
            trunk.through(server.coordinator.holdings[client].held, client, message, rows)
            for (client, message), rows in zip(batches, rounded, strict=True)
        ]
        pairs = list(zip(changed, plain, strict=True))
        trials.append(CodecTrial(
            "activations", name, _step_bytes(job, name, "activations", batches),
            _lost([(rows, message.hidden) for rows, (_, message) in zip(rounded, batches, strict=True)]),
            sum(one.loss for one, _ in pairs) / sum(other.loss for _, other in pairs) - 1,
            sum(_cosine(one.trunk, other.trunk) for one, other in pairs) / len(pairs),
        ))  # fmt: skip
    for name in candidates("gradients", job.gradient_codec):
        rows = [(message, one.gradient) for (_, message), one in zip(batches, plain, strict=True)]
        lost = _lost([(_again(name, "gradients", message, gradient), gradient) for message, gradient in rows])
        trials.append(CodecTrial("gradients", name, _step_bytes(job, name, "gradients", batches), lost))
    return trials


@dataclass(frozen=True)
class _Outcome:
    """Of one batch: its loss, the gradient of the trunk's adapters as a vector, and that at the cut."""

    loss: float
    trunk: Tensor
    gradient: Tensor


class _Trunk:
    """The server's blocks with a copy of the global adapter, which no trial changes."""

    def __init__(self, model: SplitModel, job: Job, adapter: Adapter) -> None:
        self._model = model
        self._padding_free = job.padding_free
        self._adapter = {
            block: {name: nn.Parameter(tensor.detach().clone()) for name, tensor in tensors.items()}
            for block, tensors in adapter.items()
        }

    def through(self, held: HeldBlocks, client: str, message: Activations, rows: Tensor) -> _Outcome:
        """Go through the trunk with these rows at the cut, and back."""
        blocks = {block: tensors for block, tensors in self._adapter.items() if block >= held.cut}
        place = StepId(client, message.round, message.step, message.micro_step, train=True)
        part = AtCut(place, held, replace(message, hidden=rows, loss_tokens=0), blocks)
        step = trunk_step(self._model, [part], padding_free=self._padding_free)
        trunk = torch.cat([own.flatten().float() for _, own in step.gradients if own is not None])
        return _Outcome(step.losses[0], trunk, step.at_cut[0])


def _again(
    name: str, what: Literal["activations", "gradients"], message: Activations, rows: Tensor
) -> Tensor:
    """Return rows as they would have come with a codec."""
    codec = make_codec(name, what)
    if codec is None:
        return rows
    return codec.decode(codec.encode(rows, message.lengths), message.lengths, rows.shape[1])


def _lost(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    gone = sum(float((one.float() - other.float()).square().sum()) for one, other in pairs)
    return gone / max(sum(float(other.float().square().sum()) for _, other in pairs), 1e-30)


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


def _step_bytes(
    job: Job, name: str, what: Literal["activations", "gradients"], batches: Sequence[tuple[str, Activations]]
) -> float:
    total = 0.0
    for _, message in batches:
        tokens = sum(message.lengths)  # a message may be a part of a batch
        parts = (message.batch_tokens or tokens) / tokens
        total += parts * layout_bytes(name, what, message.lengths, message.hidden.shape[1])
    return job.gradient_accumulation_steps * total / len(batches)

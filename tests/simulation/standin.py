"""The computing of a run, replaced by numbers that tell whether each step was taken once and in order.

A block's adapter is one number; a step makes the next one of a chain from it, from the rows that came, and
from the optimizer's chain. All else (coordinator, hand-outs, averages, channels, sample memories) is real.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from splitft import Job
from splitft.common.state import State
from splitft.data.sample import HeldOutPart, batch_numbers
from splitft.lora.blocks import Adapter, TensorSpec, adapter_of, flatten, tensors_of
from splitft.lora.ranks import HeldBlocks, held_blocks
from splitft.server.coordinator import Coordinator
from splitft.server.round_average import RemoteAverage
from splitft.server.seam import GlobalBlocks, TrunkLoad, TrunkMoments, TrunkUpdate, by_trunk
from splitft.server.server import Server
from splitft.wire.channel import sample_memory
from splitft.wire.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Gradients,
    HeldOut,
    LocalLoss,
    Message,
    Metrics,
    TailGradients,
    TrunkOutput,
)

BLOCKS, WIDTH = 4, 2
SPECS = (TensorSpec("m.lora_A.weight", (1, 1)), TensorSpec("m.lora_B.weight", (1, 1)))
LAYOUT = dict.fromkeys(range(BLOCKS), SPECS)
PRIME = 65521
LENGTHS = (2, 1)  # tokens of a batch's samples
ROWS, EVAL_ROWS = 8, 2
_GRID = torch.arange(sum(LENGTHS) * WIDTH, dtype=torch.float32).reshape(-1, WIDTH)

_ROW_TOKENS, _NONE = torch.tensor(LENGTHS, dtype=torch.float32), torch.zeros(len(LENGTHS))

Values = dict[int, int]  # of blocks


def mix(*numbers: int) -> int:
    """Return a number below PRIME that each of these, and their order, changes."""
    mixed = 7
    for number in numbers:
        mixed = (mixed * 31 + number + 1) % PRIME
    return mixed


def rows_from(number: int) -> Tensor:
    """Return the rows of a batch."""
    return _GRID + float(number % 4093)


def number_of(rows: Tensor) -> int:
    """Return a number of a tensor's bits."""
    return zlib.crc32(rows.contiguous().numpy().tobytes()) % PRIME


def adapter(values: Values) -> Adapter:
    names = [spec.name for spec in SPECS]
    return {
        block: {name: torch.full((1, 1), float(value)) for name in names} for block, value in values.items()
    }


def values_of(adapter_: Mapping[int, Mapping[str, Tensor]]) -> Values:
    return {block: int(float(tensors[SPECS[0].name])) for block, tensors in adapter_.items()}


def step_of(values: Values, moment: int, gradient: int) -> tuple[Values, int]:
    """Take an optimizer step: return the new values and the new state of the optimizer."""
    moment = mix(moment, gradient)
    return {block: mix(value, moment, block) for block, value in values.items()}, moment


class Trunk:
    """A trunk under training."""

    def __init__(self) -> None:
        self.values: Values = {}
        self.moment = 0
        self.gradients: list[int] = []
        self._mark: tuple[Values, int] = {}, 0

    def mark(self) -> None:
        self._mark = dict(self.values), self.moment

    def rewind(self) -> None:
        (values, self.moment), self.gradients = self._mark, []
        self.values = dict(values)

    def close_step(self) -> None:
        self.values, self.moment = step_of(self.values, self.moment, mix(*self.gradients))
        self.gradients = []


class StandInWorker:
    """A `TrunkWorker` without a model."""

    def __init__(self, job: Job, log: Callable[[dict[str, Any]], None]) -> None:
        self.settings, self.log = job, log
        self.trunks: dict[str, Trunk] = {}
        self.held: dict[str, HeldBlocks] = {}
        self.rows: Counter[str] = Counter()
        self.losses: dict[str, tuple[float, int]] = {}
        self.metrics: dict[str, Metrics] = {}
        self.first_metrics: dict[str, Metrics] = {}
        self._global: Values = {}

    def load(self, start: GlobalBlocks, loads: Mapping[str, TrunkLoad]) -> dict[str, TrunkMoments]:
        self._global = values_of(adapter_of(start.blocks, start.values, LAYOUT))
        for key, load in loads.items():
            for client, cut in zip(load.clients, load.cuts, strict=True):
                self.held[client] = held_blocks(self.settings, BLOCKS, cut)
            trunk = self.trunks.setdefault(key, Trunk())
            trunk.values = {block: self._global[block] for block in load.blocks}
        return {key: TrunkMoments() for key in loads}

    def adopt(self, moments: Mapping[str, TrunkMoments]) -> None:
        assert not moments

    def step(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        replies: dict[str, Message] = {}
        trained: list[str] = []
        for client, message in messages.items():
            match message:
                case Activations(train=True):
                    self.rows[client] += sum(message.lengths)
                    trunk = self._trunk(client)
                    seen = mix(number_of(message.hidden), *self._seen(trunk.values, client).values())
                    if self.settings.labels == "client":
                        replies[client] = self._out(message, seen)
                    else:
                        trunk.gradients.append(seen)
                        replies[client] = self._down(client, message, seen)
                        trained.append(client)
                case Activations():
                    seen = mix(number_of(message.hidden), *self._seen(self._global, client).values())
                    if self.settings.labels == "client":
                        replies[client] = self._out(message, seen)
                    else:
                        replies[client] = self._count(client, metrics(message.round, seen))
                case HeldOut():
                    seen = mix(number_of(message.input_ids), *self._global.values())
                    replies[client] = self._count(client, metrics(message.round, seen))
                case TailGradients():
                    seen = number_of(message.gradient)
                    self._trunk(client).gradients.append(seen)
                    replies[client] = self._down(client, message, seen)
                    trained.append(client)
                case Metrics():
                    self._count(client, message)
                case LocalLoss():
                    self.rows[client] += sum(message.lengths)
                    self._log_step(client, message)
                    self._add_loss(client, message.loss)
        last = self.settings.gradient_accumulation_steps - 1
        closing = [client for client in trained if replies[client].micro_step == last]  # type: ignore[union-attr]
        for key in by_trunk(closing, self.settings):
            self.trunks[key].close_step()
        return replies

    def take_norms(self, norms: Mapping[str, Tensor]) -> None: ...

    def collect(self) -> dict[str, TrunkUpdate]:
        rows, self.rows = dict(self.rows), Counter()
        updates = {}
        for key, clients in by_trunk(rows, self.settings).items():
            held = adapter(self.trunks[key].values)
            seen = tuple(rows[client] for client in clients)
            updates[key] = TrunkUpdate(tuple(clients), seen, tuple(held), tensors_of(held, LAYOUT))
        return updates

    def training_losses(self) -> dict[str, tuple[float, int]]:
        losses, self.losses = self.losses, {}
        return losses

    def take_metrics(self) -> dict[str, Metrics]:
        taken, self.metrics = self.metrics, {}
        self.first_metrics = taken | self.first_metrics
        return taken

    def mark(self, clients: Sequence[str], *, again: bool = False) -> None:
        assert not again  # nobody is blamed
        self.log({"event": "start", "clients": list(clients)})
        for key in by_trunk(clients, self.settings):
            self.trunks[key].mark()

    def rewind(self, clients: Sequence[str]) -> None:
        self.log({"event": "rewind", "clients": list(clients)})
        for key in by_trunk(clients, self.settings):
            self.trunks[key].rewind()
        for client in clients:
            for kept in (self.rows, self.losses, self.metrics):
                kept.pop(client, None)  # type: ignore[attr-defined]

    def forget_metrics(self, client: str) -> None:
        self.metrics.pop(client, None)

    def state(self) -> State:
        trunks = {key: [adapter(t.values), t.moment] for key, t in self.trunks.items()}
        return {"trunks": trunks, "first": {c: vars(m) for c, m in self.first_metrics.items()}}

    def load_state(self, state: State) -> None:
        for sums in (self.rows, self.losses, self.metrics, self.held):
            sums.clear()  # type: ignore[attr-defined]
        self.trunks.clear()
        for key, (kept, moment) in state["trunks"].items():
            trunk = self.trunks[key] = Trunk()
            trunk.values, trunk.moment = values_of(kept), moment
        self.first_metrics = {client: Metrics(**values) for client, values in state["first"].items()}

    def _trunk(self, client: str) -> Trunk:
        return self.trunks["" if self.settings.server_adapter == "shared" else client]

    def _seen(self, values: Values, client: str) -> Values:
        return {block: value for block, value in values.items() if block in self.held[client].trunk}

    def _out(self, message: Activations, seen: int) -> TrunkOutput:
        return TrunkOutput(message.round, message.step, message.micro_step, message.train, rows_from(seen))

    def _down(self, client: str, message: Activations | TailGradients, seen: int) -> Gradients:
        self._log_step(client, message)
        loss = seen / PRIME
        self._add_loss(client, loss)
        place = message.round, message.step, message.micro_step
        return Gradients(*place, loss=loss, gradient=rows_from(seen + 1))

    def _log_step(self, client: str, message: Activations | TailGradients | LocalLoss) -> None:
        place = {"round": message.round, "step": message.step, "micro_step": message.micro_step}
        self.log({"event": "backward", "client": client, **place})

    def _add_loss(self, client: str, loss: float) -> None:
        total, tokens = self.losses.get(client, (0.0, 0))
        self.losses[client] = total + loss * 3, tokens + 3

    def _count(self, client: str, found: Metrics) -> Metrics:
        before = self.metrics.get(client)
        sums = found
        if before is not None:
            sums = Metrics(found.round, before.nll + found.nll, 0.0, before.tokens + found.tokens, 0.0, 0)
        self.metrics[client] = sums
        return found


def metrics(round_: int, seen: int) -> Metrics:
    return Metrics(round_, seen / PRIME, 0.0, 3, 0.0, 0)


def with_rows(found: Metrics) -> Metrics:
    nll = _ROW_TOKENS * (found.nll / 3)
    return replace(found, row_nll=nll, row_correct=_NONE, row_tokens=_ROW_TOKENS)


class StandInServer(Server):
    """A server with a real coordinator, and with numbers for trunks."""

    def __init__(
        self,
        job: Job,
        log: Callable[[dict[str, Any]], None],
        averager: RemoteAverage | None = None,
        names: Sequence[str] = (),
    ) -> None:
        first = adapter({block: 11 + block for block in range(BLOCKS)})
        self.coordinator = Coordinator(
            job, LAYOUT, BLOCKS, first, continues=False, micro_batches=lambda client: 1, mean=None,
            averager=averager, log=log, guard=None,
            place={name: place for place, name in enumerate(names)},
        )  # fmt: skip
        self.worker = StandInWorker(job, log)  # type: ignore[assignment]
        self.training_losses, self.take_metrics = self.worker.training_losses, self.worker.take_metrics
        self._guard = None
        self._evaluates = job.evaluates_at_server
        self.truncation_errors = self.coordinator.blocks.take_truncation_errors


class StandInClient:
    """A `ClientRole` without a model."""

    def __init__(self, name: str, job: Job) -> None:
        self.name, self.settings = name, job
        self.data = SimpleNamespace(train=range(ROWS), eval=range(EVAL_ROWS))
        self.model = SimpleNamespace(slots=SimpleNamespace(layout=LAYOUT))
        self.memory = sample_memory(job, WIDTH)
        self.micro_batches, self.epsilon = 1, None
        self.own = zlib.crc32(name.encode()) % PRIME
        self.cut = 0
        self.round = -1  # of the last hand-out in this life
        self.values: Values = {}
        self.handed_out: Values = {}
        self.moment = self.position = 0
        self._gradients: list[int] = []
        self._due: dict[int, int] = {}

    @property
    def micro_steps(self) -> int:
        return self.settings.gradient_accumulation_steps

    @property
    def ahead(self) -> int:
        return self.settings.max_staleness * self.micro_steps

    def receive(self, message: AdapterDown) -> None:
        held = held_blocks(self.settings, BLOCKS, message.cut)
        self.cut, self.round = message.cut, message.round
        came = {b: int(float(v[0])) for b, v in zip(message.blocks, message.values, strict=True)}
        self.handed_out = {block: (self.handed_out | came)[block] for block in held.on_client(LAYOUT)}
        self.values = dict(self.handed_out)
        self._clear()

    def forward(self, round_: int, step: int, micro_step: int) -> Message:
        assert round_ == self.round, f"{self.name} steps in round {round_}, and was handed out {self.round}"
        if micro_step == 0:
            self._apply(step - 1 - self.settings.max_staleness)
        samples = tuple((self.position + i) % ROWS for i in range(len(LENGTHS)))
        self.position += len(LENGTHS)
        missing = self.memory.missing(samples, LENGTHS)
        if missing is None:
            rows = rows_from(mix(self.own, self.position, *self.values.values()))
        else:
            places = [torch.full((LENGTHS[i], WIDTH), float(mix(self.own, samples[i]))) for i in missing]
            rows = torch.cat(places) if places else torch.empty(0)
        return Activations(round_, step, micro_step, True, LENGTHS, rows, loss_tokens=3, samples=samples)

    def evaluate(self, round_: int, part: HeldOutPart) -> Iterator[Message]:
        size = self.settings.per_device_eval_batch_size
        for number in batch_numbers(EVAL_ROWS, part, size):
            if self.settings.evaluates_at_server:
                ids = torch.full((sum(LENGTHS),), self.own + number, dtype=torch.int32)
                yield HeldOut(round_, number, LENGTHS, ids, ids)
                continue
            rows = rows_from(mix(self.own, number, *self.handed_out.values()))
            yield Activations(round_, number, 0, False, LENGTHS, rows)

    def answer(self, message: Message) -> Message | None:
        match message:
            case TrunkOutput(train=True):
                seen = mix(number_of(message.hidden), *self.values.values())
                place = message.round, message.step, message.micro_step
                return TailGradients(*place, seen / PRIME, 3, rows_from(seen))
            case TrunkOutput():
                seen = mix(number_of(message.hidden), *self.handed_out.values())
                return with_rows(metrics(message.round, seen))
            case Gradients():
                self._gradients.append(number_of(message.gradient))
                if message.micro_step + 1 == self.micro_steps:
                    self._due[message.step], self._gradients = mix(*self._gradients), []
                    if not self.settings.max_staleness:
                        self._apply(message.step)
        return None

    def finish(self, round_: int) -> AdapterUp:
        self._apply(self.settings.local_steps)
        held = adapter(self.values)
        return AdapterUp(round_, tuple(held), tuple(flatten(block) for block in held.values()))

    def use_model(self, model: object) -> None: ...

    def state(self) -> State:
        return {
            "cut": self.cut, "adapter": adapter(self.handed_out), "trained": adapter(self.values),
            "moment": self.moment, "position": self.position,
        }  # fmt: skip

    def load_state(self, state: State) -> None:
        self.cut, self.moment, self.position = state["cut"], state["moment"], state["position"]
        self.handed_out, self.values = values_of(state["adapter"]), values_of(state["trained"])
        self._clear()

    def _clear(self) -> None:
        self._gradients, self._due = [], {}

    def _apply(self, last: int) -> None:
        for step in [step for step in sorted(self._due) if step <= last]:
            self.values, self.moment = step_of(self.values, self.moment, self._due.pop(step))

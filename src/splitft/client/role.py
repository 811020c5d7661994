"""A client as its carrier sees it: in this process, or behind a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from splitft.common.state import State
from splitft.data import ClientData
from splitft.job.settings import TrainingSettings
from splitft.model.split_model import SplitModel
from splitft.wire.memory.sample_memory import SampleMemory
from splitft.wire.messages import AdapterDown, AdapterUp, Message, OptimizerState


class ClientRole(Protocol):
    """Trains the blocks that it holds. Its methods are those of `client.Client`."""

    name: str
    settings: TrainingSettings
    data: ClientData
    model: SplitModel
    memory: SampleMemory
    micro_batches: int

    @property
    def micro_steps(self) -> int: ...
    @property
    def ahead(self) -> int: ...
    def use_model(self, model: SplitModel) -> None: ...
    def receive(self, message: AdapterDown) -> OptimizerState | None: ...
    def forward(self, round_: int, step: int, micro_step: int) -> Message: ...
    def evaluate(self, round_: int) -> Iterator[Message]: ...
    def answer(self, message: Message) -> Message | None: ...
    def finish(self, round_: int) -> AdapterUp: ...
    def state(self) -> State: ...
    def load_state(self, state: State) -> None: ...

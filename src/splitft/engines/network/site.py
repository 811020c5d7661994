"""A client in a process of its own: does the server's requests, on its own data and blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from splitft.client.client import ClientRole
from splitft.common.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from splitft.common.state import State
from splitft.data.sample import HeldOutPart
from splitft.engines.network import control
from splitft.engines.network.aggregator_link import Desk
from splitft.engines.network.message_order import EVAL_IN_FLIGHT
from splitft.engines.network.timing import Stopwatch
from splitft.engines.network.transport.dialler import Dialler
from splitft.errors import (
    DataError,
    DivergedError,
    ModelError,
    NetworkError,
    OutputError,
    SplitFTError,
)
from splitft.wire.channel import Channel
from splitft.wire.messages import AdapterDown, Gradients, HeldOut, LocalLoss, Message, Metrics, TrunkOutput

SAVED, FINISHED = "saved", "finished"
KEEP = 2  # checkpoints: the server may go back to the one before the last


@dataclass(eq=False)
class Conversation:
    """The messages of one client over its dialler."""

    dialler: Dialler
    _session: str = field(default="", init=False)
    channel: Channel | None = field(default=None, init=False)  # packs; None: the server has not sent the job

    def start(self, session: str) -> None:
        """Go on in a new session."""
        self._session = session
        if self.channel is not None:
            self.channel.memory.forget()

    def say(self, message: control.Said) -> None:
        """Send a message; it is dropped where the session is over."""
        message = self.channel.pack(message) if self.channel else message
        self.send(control.packed(message))

    def send(self, payload: bytes) -> None:
        """Send a payload as it is."""
        self.dialler.send(self._session, payload)

    def take(self) -> Any:
        """Wait for the next message. Raises NetworkError where the server refuses this client or is lost."""
        came = self.dialler.incoming.get()
        if isinstance(came, SplitFTError):
            raise came
        if isinstance(came, control.Refused):
            raise NetworkError(f"the server refuses this client: {came.reason}")
        if isinstance(came, control.Welcome | control.End):
            return came
        try:
            message = control.WIRE.decode(came)
            return self.channel.unpack(message) if self.channel else message
        except ValueError as error:
            raise NetworkError(f"the server sent what cannot be read: {error}") from None

    def refuse(self, reason: str) -> None:
        """Have `take` raise that this client is refused. To be called in any thread."""
        self.dialler.incoming.put(control.Refused(reason, False))


class Setup(Protocol):
    """Makes the client of a job, and its way to the aggregator, if the job has one."""

    def make(self, welcome: control.Welcome) -> tuple[ClientRole, Channel]:
        """Read the data and the first blocks; return the client and its end. Raises SplitFTError."""

    def need(self, client: ClientRole, cut: int) -> None:
        """Have a client hold the blocks of a cut."""

    def open_desk(self, on_end: Callable[[str], None]) -> Desk | None:
        """Dial the aggregator, if the job has one. on_end: receives the reason where it refuses."""


class Site:
    """A client of a run, until the run ends. Its states after each round are under `folder`."""

    def __init__(self, conversation: Conversation, folder: Path, setup: Setup) -> None:
        self.evaluated: list[Metrics] = []  # of the last evaluation, batch by batch
        self._conversation = conversation
        self._folder = folder
        self._setup = setup
        self._client: ClientRole | None = None
        self._desk: Desk | None = None
        self._blank: State = {}  # of a client without any hand-out
        self._start: State = {}  # as of the last hand-out
        self._on_the_way = 0  # batches that are sent and not answered to the end
        self._front, self._tail = Stopwatch(), Stopwatch()  # of the local steps under way

    @property
    def joined(self) -> bool:
        """Whether the server has sent the job, and the data have been read."""
        return self._client is not None

    @property
    def client(self) -> ClientRole:
        """The client. Raises NetworkError before the server has sent the job."""
        if self._client is None:
            raise NetworkError("the server asked for something before it sent the job")
        return self._client

    def run(self) -> control.End:
        """Take part until the server says that the run is over. Raises NetworkError where it is refused."""
        try:
            request = self._conversation.take()
            while not isinstance(request, control.End):
                try:
                    self._follow(request)
                    request = self._conversation.take()
                except _StepsOverError as over:
                    (request,) = over.args
                except NetworkError:
                    raise
                except SplitFTError as error:  # the server waits for it to come again, unless it diverged
                    self._conversation.say(control.Failed(_why(error)))
                    raise
            self._conversation.dialler.close(over=True)
            return request
        finally:
            if self._desk is not None:
                self._desk.close()

    def _follow(self, request: control.Said) -> None:
        match request:
            case control.Welcome():
                self._join(request)
            case control.Load():
                self._load(request)
            case AdapterDown():
                self._hold(request)
            case control.Train():
                self._train(request)
            case control.Skip():
                self.client.memory.forget()
                self._load_state(self._start)
            case control.Evaluate():
                self._evaluate(request)
            case Metrics():  # of rows that the server has evaluated by itself
                self.evaluated = [request]
            case control.Save():
                save_checkpoint(self._folder / SAVED, request.done, self._state(), keep=KEEP)
                self._conversation.say(control.Saved(request.done))
            case _:  # an answer to something that was given up
                pass

    def _join(self, welcome: control.Welcome) -> None:
        """Start in a new session; a client that was there before keeps its data and blocks."""
        self._conversation.start(welcome.session)
        if self._client is None:
            try:
                self._client, channel = self._setup.make(welcome)
            except SplitFTError as error:
                self._conversation.say(control.Failed(_why(error)))
                self._conversation.dialler.close()
                raise
            self._conversation.channel = channel
            self._blank = self._state()
            self._desk = self._setup.open_desk(self._conversation.refuse)
        self._conversation.say(control.Ready(len(self._client.data.train), len(self._client.data.eval)))

    def _load(self, wanted: control.Load) -> None:
        """Restore the checkpoint that the server counts on, or the initial state."""
        # At the very start: checkpoints of an earlier run would count as newer ones.
        if not wanted.done and not wanted.finished:
            remove_checkpoints(self._folder / SAVED)
            remove_checkpoints(self._folder / FINISHED)
        folder = self._folder / (FINISHED if wanted.finished else SAVED)
        number = wanted.done + 1 if wanted.finished else wanted.done
        found = load_checkpoint(folder, number) if number else None
        state = found.state if found else self._blank
        self._setup.need(self.client, state["cut"])
        self._load_state(state)
        self._start = state
        # The aggregator may not have the update yet.
        if found is not None and wanted.finished and self._desk is not None:
            self._desk.hand_in(self.client.finish(wanted.done))
        self._conversation.say(control.Loaded(wanted.done, found is not None or not number))

    def _hold(self, adapters: AdapterDown) -> None:
        """Take a hand-out; the optimizer state of blocks that leave goes back."""
        self._setup.need(self.client, adapters.cut)
        self.client.memory.move(adapters.cut)
        state = self.client.receive(adapters)
        self._start = self._state()
        self._conversation.say(state or control.Held(adapters.round))

    def _train(self, task: control.Train) -> None:
        """Take the local steps of a round and send the trained adapters."""
        client = self.client
        if task.attempt > 1:
            self._load_state(self._start)
        self._conversation.say(control.Started(task.round, task.attempt, client.memory.agree(task.memory)))
        self._front, self._tail = Stopwatch(), Stopwatch()
        # With staleness, batches of later steps go up before the gradients of this one are down.
        self._on_the_way = 0
        for step in range(client.settings.local_steps):
            most = client.ahead + client.micro_batches
            self._carry(self._forwards(task.round, step), most, left=client.ahead)
        self._carry(iter(()), 1)
        # The state is saved before the server hears of the adapters.
        update = client.finish(task.round)
        self._conversation.say(control.Worked(task.round, self._front.seconds, self._tail.seconds))
        save_checkpoint(self._folder / FINISHED, task.round + 1, self._state(), keep=KEEP)
        self._conversation.say(self._desk.hand_in(update) if self._desk else update)

    def _evaluate(self, task: control.Evaluate) -> None:
        """Evaluate the held-out rows."""
        self._conversation.say(control.Started(task.round, control.EVALUATION))
        self.evaluated = []
        self._on_the_way = 0
        part = HeldOutPart(task.sample, task.whole, task.have)
        self._carry(self.client.evaluate(task.round, part), EVAL_IN_FLIGHT)
        self._conversation.say(control.Evaluated(task.round))

    def _state(self) -> State:
        """Return all that outlasts a round: the client's state, and what is kept of its samples."""
        return self.client.state() | {"memory": self.client.memory.state()}

    def _load_state(self, state: State) -> None:
        self.client.load_state(state)
        self.client.memory.load_state(state["memory"])

    def _forwards(self, round_: int, step: int) -> Iterator[Message]:
        for micro_step in range(self.client.micro_steps):
            with self._front:
                message = self.client.forward(round_, step, micro_step)
            yield message

    def _carry(self, messages: Iterator[Message], most: int, left: int = 0) -> None:
        """Send messages with at most `most` batches unanswered; return when `left` remain unanswered."""
        for message in messages:
            self._conversation.say(message)
            self._note(message)
            self._on_the_way += not isinstance(message, LocalLoss | Metrics | HeldOut)
            while self._on_the_way >= most:
                self._on_the_way -= self._answer()
        while self._on_the_way > left:
            self._on_the_way -= self._answer()

    def _answer(self) -> bool:
        """Answer the next message of the server; return whether that ends the way of its batch."""
        reply = self._conversation.take()
        if not isinstance(reply, Gradients | TrunkOutput | Metrics):
            raise _StepsOverError(reply)
        self._note(reply)
        with self._tail if isinstance(reply, TrunkOutput) else self._front:
            answer = self.client.answer(reply)
        if answer is None:
            return True
        self._conversation.say(answer)
        self._note(answer)
        return isinstance(answer, Metrics)

    def _note(self, message: Message) -> None:
        if isinstance(message, Metrics):
            self.evaluated.append(message)


def _why(error: SplitFTError) -> str:
    """Return the server's version of an error: never the text, which may quote the data."""
    what = {
        DataError: "its data cannot be used",
        ModelError: "it cannot load its part of the model",
        OutputError: "it cannot write its files",
    }
    if isinstance(error, DivergedError):
        return control.DIVERGED
    return what.get(type(error), "it cannot take part in this job") + "; its own output says why"


class _StepsOverError(Exception):
    """A request, the only argument, came that ends the steps or the evaluation under way."""

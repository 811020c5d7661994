"""A client in a process of its own: does what the server says, on its own data and blocks. (ours)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from splitft.client.client import Client
from splitft.common.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from splitft.common.state import State
from splitft.engines.network.aggregator_link import Desk
from splitft.engines.network.control import (
    EVALUATION,
    WIRE,
    Control,
    End,
    Evaluate,
    Evaluated,
    Failed,
    Held,
    Load,
    Loaded,
    Ready,
    Refused,
    Save,
    Saved,
    Skip,
    Started,
    Train,
    Welcome,
    Worked,
    packed,
)
from splitft.engines.network.script import EVAL_IN_FLIGHT
from splitft.engines.network.timing import Stopwatch
from splitft.engines.network.transport.dialler import Dialler
from splitft.errors import (
    DataError,
    DivergedError,
    LostError,
    ModelError,
    NetworkError,
    OutputError,
    SplitFTError,
)
from splitft.job import Job
from splitft.wire.channel import Channel
from splitft.wire.messages import AdapterDown, Gradients, LocalLoss, Message, Metrics, TrunkOutput

SAVED, FINISHED = "saved", "finished"
KEEP = 2  # checkpoints: the server may go back to the one before the last

MakeClient = Callable[[Welcome], Client]  # reads the data; may raise any SplitFTError
NeedBlocks = Callable[[Client, int], None]  # makes a client hold the blocks of a cut
OpenDesk = Callable[[Job, Callable[[str], None]], Desk]  # dials the aggregator; is told why it may not


class Site:
    """Follows the server until the run ends. Its state after every round is under `folder`."""

    def __init__(
        self,
        dialler: Dialler,
        folder: Path,
        make: MakeClient,
        need: NeedBlocks,
        notice: Callable[[str], None],
        open_desk: OpenDesk | None = None,
    ) -> None:
        self.dialler = dialler
        self._open_desk = open_desk
        self._desk: Desk | None = None
        self.folder = folder
        self.notice = notice
        self.evaluated: list[Metrics] = []  # of the last evaluation, batch by batch
        self._make = make
        self._need = need
        self._client: Client | None = None
        self._channel: Channel | None = None
        self._blank: State = {}  # of a client that has not been told anything
        self._start: State = {}  # as it was handed out the adapters of the round
        self._session = ""
        self._on_the_way = 0  # batches that are sent and not answered to the end
        self._front, self._tail = Stopwatch(), Stopwatch()  # of the local steps under way
        self._next: Message | Control | Welcome | None = None  # what ended a turn before its time

    def run(self) -> End:
        """Take part until the server says that the run is over. Raises NetworkError where it is refused."""
        try:
            end = self._take_part()
            self.dialler.close(over=True)
            return end
        finally:
            if self._desk is not None:
                self._desk.close()

    def _take_part(self) -> End:
        while True:
            item = self._take()
            if isinstance(item, End):
                return item
            try:
                self._follow(item)
            except _TurnOverError as over:
                self._next = over.item
            except DivergedError as error:
                self.dialler.send(self._session, packed(Failed(_why(error))))
                raise

    def _follow(self, item: Message | Control) -> None:
        match item:
            case Welcome():
                self._join(item)
            case Load():
                self._say(Loaded(item.done, self._load(item)))
            case AdapterDown():
                self._need(self.client, item.cut)
                self.channel.memory.move(item.cut)
                state = self.client.receive(item)
                self._start = self._state()
                self._say(state or Held(item.round))
            case Train():
                self._train(item)
            case Skip():
                self.channel.memory.forget()
                self._load_state(self._start)
            case Evaluate():
                self._say(Started(item.round, EVALUATION))
                self.evaluated = []
                self._on_the_way = 0
                self._carry(self.client.evaluate(item.round), EVAL_IN_FLIGHT)
                self._say(Evaluated(item.round))
            case Save():
                save_checkpoint(self.folder / SAVED, item.done, self._state(), keep=KEEP)
                self._say(Saved(item.done))
            case _:  # an answer to something that was given up
                pass

    @property
    def joined(self) -> bool:
        """Whether the server has told the job, and the data have been read."""
        return self._client is not None

    @property
    def client(self) -> Client:
        """What this process trains. Raises NetworkError where the server has not told the job."""
        if self._client is None:
            raise NetworkError("the server asked for something before it told the job")
        return self._client

    @property
    def channel(self) -> Channel:
        """The way to the server. Raises NetworkError where the server has not told the job."""
        if self._channel is None:
            raise NetworkError("the server asked for something before it told the job")
        return self._channel

    def _state(self) -> State:
        """Return all that outlasts a round: the client's, and what is kept of its samples."""
        return self.client.state() | {"memory": self.channel.memory.state()}

    def _load_state(self, state: State) -> None:
        self.client.load_state(state)
        self.channel.memory.load_state(state["memory"])

    def _join(self, welcome: Welcome) -> None:
        """Start in a new session; a client that is there already keeps its data and blocks."""
        self._session = welcome.session
        if self._channel is not None:
            self._channel.memory.forget()
        if self._client is None:
            try:
                self._client = self._make(welcome)
            except SplitFTError as error:
                self._say(Failed(_why(error)))
                self.dialler.close()
                raise
            self._channel = Channel(self._client.job, self._client.model.width)
            self._blank = self._state()
            self._client.missing = self._channel.memory.missing
            if self._client.job.network.aggregator and self._open_desk is not None:
                self._desk = self._open_desk(self._client.job, self._refused)
        self._say(Ready(len(self._client.data.train), len(self._client.data.eval)))

    def _load(self, wanted: Load) -> bool:
        if not wanted.done and not wanted.finished:  # what an earlier run has left would count as newer
            remove_checkpoints(self.folder / SAVED)
            remove_checkpoints(self.folder / FINISHED)
        folder = self.folder / (FINISHED if wanted.finished else SAVED)
        number = wanted.done + 1 if wanted.finished else wanted.done
        found = load_checkpoint(folder, number) if number else None
        state = found.state if found else self._blank
        self._need(self.client, state["cut"])
        self._load_state(state)
        self._start = state
        if found is not None and wanted.finished and self._desk is not None:
            self._desk.hand_in(self.client.finish(wanted.done))
        return found is not None or not number

    def _train(self, task: Train) -> None:
        """Take the local steps of a round and send what was trained."""
        client, job = self.client, self.client.job
        if task.attempt > 1:
            self._load_state(self._start)
        self._say(Started(task.round, task.attempt, self.channel.memory.agree(task.memory)))
        self._front, self._tail = Stopwatch(), Stopwatch()
        ahead = job.max_staleness * client.micro_steps
        self._on_the_way = 0
        for step in range(job.local_steps):
            self._carry(self._forwards(task.round, step), ahead + client.micro_batches, ahead)
        self._carry(iter(()), 1)
        update = client.finish(task.round)
        self._say(Worked(task.round, self._front.seconds, self._tail.seconds))
        save_checkpoint(self.folder / FINISHED, task.round + 1, self._state(), keep=KEEP)
        self._say(self._desk.hand_in(update) if self._desk else update)

    def _refused(self, reason: str) -> None:
        self.dialler.incoming.put(Refused(reason, False))

    def _forwards(self, round_: int, step: int) -> Iterator[Message]:
        for micro_step in range(self.client.micro_steps):
            with self._front:
                message = self.client.forward(round_, step, micro_step)
            yield message

    def _carry(self, messages: Iterator[Message], most: int, left: int = 0) -> None:
        """Send messages and do what comes down for each, with at most so many on their way; leave so many."""
        for message in messages:
            self._say(message)
            if isinstance(message, LocalLoss | Metrics):
                self._note(message)
                continue
            self._on_the_way += 1
            while self._on_the_way >= most:
                self._on_the_way -= self._answer()
        while self._on_the_way > left:
            self._on_the_way -= self._answer()

    def _answer(self) -> bool:
        """Do what comes down next; return whether that ends the way of its batch."""
        reply = self._take()
        if not isinstance(reply, Gradients | TrunkOutput | Metrics):
            raise _TurnOverError(reply)
        self._note(reply)
        with self._tail if isinstance(reply, TrunkOutput) else self._front:
            answer = self.client.answer(reply)
        if answer is None:
            return True
        self._say(answer)
        self._note(answer)
        return isinstance(answer, Metrics)

    def _note(self, message: Message) -> None:
        if isinstance(message, Metrics):
            self.evaluated.append(message)

    def _say(self, message: Message | Control) -> None:
        message = self._channel.pack(message) if self._channel else message
        self.dialler.send(self._session, packed(message))

    def _take(self) -> Any:
        if self._next is not None:
            item, self._next = self._next, None
            return item
        came = self.dialler.incoming.get()
        if isinstance(came, LostError):
            raise came
        if isinstance(came, Refused):
            raise NetworkError(f"the server refuses this client: {came.reason}")
        if isinstance(came, Welcome | End):
            return came
        try:
            message = WIRE.decode(came)
            return self._channel.unpack(message) if self._channel else message
        except ValueError as error:
            raise NetworkError(f"the server sent what cannot be read: {error}") from None


def _why(error: SplitFTError) -> str:
    """What the server is told of an error: never its text, which may quote the data."""
    what = {
        DataError: "its data cannot be used",
        ModelError: "it cannot load its part of the model",
        OutputError: "it cannot write its files",
        DivergedError: "what it computes is not finite",
    }
    return what.get(type(error), "it cannot take part in this job") + "; its own output says why"


class _TurnOverError(Exception):
    """Something came that ends the steps or the evaluation under way."""

    def __init__(self, item: Any) -> None:
        super().__init__()
        self.item = item

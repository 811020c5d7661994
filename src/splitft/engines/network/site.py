"""A client in a process of its own: does the server's requests, on its own data and blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from splitft.client.client import ClientRole
from splitft.common.draining import Draining
from splitft.common.state import State
from splitft.common.text import error_line, one_line, plain
from splitft.data.sample import HeldOutPart
from splitft.engines.network import control
from splitft.engines.network.client_sums import NoSums
from splitft.engines.network.conversation import Conversation
from splitft.engines.network.desk import Desk
from splitft.engines.network.local_steps import LocalSteps, StepsOverError
from splitft.engines.network.message_order import EVAL_IN_FLIGHT
from splitft.engines.network.request_gate import RequestGate
from splitft.engines.network.site_files import FINISHED, SAVED, SiteFiles
from splitft.engines.network.site_observer import SiteObserver
from splitft.engines.network.sum_messages import SumAnswer, SumRequest, Trained
from splitft.errors import (
    AggregatorError,
    DataError,
    DivergedError,
    MismatchError,
    ModelError,
    NetworkError,
    OutputError,
    PolicyError,
    SplitFTError,
)
from splitft.job.site_policy import SitePolicy
from splitft.wire.channel import Channel
from splitft.wire.messages import AdapterDown, AdapterUp, Metrics


@dataclass(frozen=True)
class Joined:
    """What a client takes part with.

    Attributes:
        channel: Its end of the connection.
        data: Digest of its rows, which never leaves it.
        most_bytes: Of the largest message that the server can have for it.
        sums: Its part in masked sums, where the job has these.
    """

    client: ClientRole
    channel: Channel
    gate: RequestGate
    data: str
    most_bytes: int
    sums: NoSums = field(default_factory=NoSums)


class Setup(Protocol):
    """Makes the client of a job, and its way to the aggregator, if the job has one."""

    policy: SitePolicy

    def make(self, welcome: control.Welcome) -> Joined:
        """Read the data and the first blocks. Raises SplitFTError."""

    def need(self, client: ClientRole, cut: int) -> None:
        """Have a client hold the blocks of a cut. Raises ModelError where they are not the server's."""

    def facts(self) -> dict[str, str]:
        """Return what must be as at the server, of the blocks that are held (`sameness`)."""

    def check_adapter(self, client: ClientRole, message: AdapterDown) -> None:
        """Check what a front computes with the adapters of a hand-out. Raises PolicyError."""

    def keep_adapter(self, gate: RequestGate, message: control.AdapterCopy) -> None:
        """Keep the adapter of the run in the client's folder. Raises PolicyError, OutputError."""

    def open_desk(self, on_end: Callable[[AggregatorError], None]) -> Desk | None:
        """Dial the aggregator, if the job has one. on_end: as of `Desk`."""


class Site:
    """A client of a run, until the run ends. Its states after each round are under `folder`."""

    def __init__(
        self, conversation: Conversation, folder: Path, setup: Setup, observer: SiteObserver | None = None
    ) -> None:
        self._observer = observer or SiteObserver()
        self._files = SiteFiles(folder, setup.policy.max_disk_gb)
        self._steps = LocalSteps(conversation)
        self._conversation, self._setup = conversation, setup
        self._joined: Joined | None = None
        self._desk: Desk | None = None
        self._blank: State = {}  # of a client without any hand-out
        self._start: State = {}  # as of the last hand-out

    @property
    def evaluated(self) -> list[Metrics]:
        """The figures of the last evaluation, batch by batch."""
        return self._steps.evaluated

    @property
    def joined(self) -> bool:
        """Whether the server has sent the job, and the data have been read."""
        return self._joined is not None

    @property
    def client(self) -> ClientRole:
        """The client. Raises NetworkError before the server has sent the job."""
        return self._now.client

    @property
    def _now(self) -> Joined:
        if self._joined is None:
            raise NetworkError("the server asked for something before it sent the job")
        return self._joined

    def run(self) -> control.End:
        """Take part until the server says that the run is over. Raises NetworkError where it is refused."""
        try:
            request = self._conversation.take()
            while not isinstance(request, control.End):
                try:
                    self._follow(request)
                    request = self._conversation.take()
                except StepsOverError as over:
                    (request,) = over.args
                except DivergedError as error:
                    self._conversation.say(control.Failed(_why(error)))
                    raise
                except AggregatorError as error:
                    _turn_back(self._conversation, error)
                    raise
                except NetworkError:
                    raise
                except SplitFTError as error:  # its owner may mend it, and start it again
                    _turn_back(self._conversation, error)
                    raise
            self._conversation.dialler.close(over=True)
            return request
        except Draining:
            self._conversation.leave()
            raise
        finally:
            if self._desk is not None:
                self._desk.close()

    def _follow(self, request: control.Said) -> None:
        """Do what the server asks for, once it has passed the gate.

        Raises NetworkError where a message of the server's cannot be followed. Where no check has found that,
        the traceback is in `faults.log` of the client's folder.
        """
        try:
            if self._joined is not None:
                self._joined.gate.check(request)
            self._do(request)
        except (SplitFTError, StepsOverError, OSError):
            raise
        except ValueError as error:  # of a check
            raise NetworkError(f"{_unfollowed(request)}: {plain(one_line(error))}") from error
        except Exception as error:
            what = f"{_unfollowed(request)}: {plain(error_line(error))}"
            raise NetworkError(f"{what}; the traceback is in {self._files.keep_fault(error)}") from error

    def _do(self, request: control.Said) -> None:
        match request:
            case control.Welcome():
                self._join(request)
            case control.Load():
                self._load(request)
            case AdapterDown():
                self._hold(request)
            case control.Train() | control.Evaluate() if not self._start["cut"]:
                raise ValueError("it came before any adapters")
            case control.Train():
                self._train(request)
            case control.Skip():
                self.client.memory.forget()
                self._load_state(self._start)
            case _ if isinstance(request, SumRequest):
                self._conversation.say(_handed_in(self._desk, self._now.sums.answer(request, self.client)))
            case control.Evaluate():
                self._evaluate(request)
            case Metrics():  # of rows that the server has evaluated by itself
                self._steps.evaluated[:] = [request]
                self._tell_evaluated()
            case control.AdapterCopy():
                self._setup.keep_adapter(self._now.gate, request)
            case control.Save():
                self._files.save(SAVED, request.done, self._state())
                self._conversation.say(control.Saved(request.done))
            case _:  # an answer to something that was given up
                pass

    def _join(self, welcome: control.Welcome) -> None:
        """Start in a new session; a client that was there before keeps its data and blocks."""
        self._conversation.start(welcome.session)
        if self._joined is None:
            try:
                self._joined = joined = self._setup.make(welcome)
            except SplitFTError as error:
                _turn_back(self._conversation, error)
                raise
            self._conversation.channel = joined.channel
            self._conversation.watch(joined.gate.count)
            self._conversation.dialler.limit(joined.most_bytes)
            self._blank = self._state()
            self._desk = self._setup.open_desk(self._conversation.fail)
        self._joined.gate.start_session()
        data, facts = self.client.data, self._setup.facts()
        key = self._files.memory_key() if self.client.memory.state() else ""
        ready = control.Ready(len(data.train), len(data.eval), tuple(facts), tuple(facts.values()), key)
        self._conversation.say(ready)

    def _load(self, wanted: control.Load) -> None:
        """Restore the checkpoint that the server counts on, or the initial state."""
        found = self._files.find(wanted, self._now.data)
        state = self._blank if found is None else found
        self._setup.need(self.client, state["cut"])
        self._load_state(state)
        self._start = state
        if found is not None and wanted.finished:  # its sum may be under way, its update not handed in
            self._now.sums.trained(wanted.done, state.get("tokens", 0))
            if self._desk is not None and not self._now.sums.masks:
                self._desk.hand_in(self.client.finish(wanted.done))
        number = wanted.done + wanted.finished
        self._conversation.say(control.Loaded(wanted.done, found is not None or not number))

    def _hold(self, adapters: AdapterDown) -> None:
        """Take a hand-out; the optimizer state of blocks that leave goes back."""
        self._setup.need(self.client, adapters.cut)
        self._now.gate.check_values(adapters, self.client.model.slots.layout)
        self.client.memory.move(adapters.cut)
        state = self.client.receive(adapters)
        self._setup.check_adapter(self.client, adapters)
        self._now.sums.forget()
        self._start = self._state()
        self._conversation.say(state or control.Held(adapters.round))

    def _train(self, task: control.Train) -> None:
        """Take the local steps of a round and send the trained adapters."""
        client = self.client
        if task.attempt > 1:
            self._load_state(self._start)
        self._conversation.say(control.Started(task.round, task.attempt, client.memory.agree(task.memory)))
        self._steps.train(client, task.round)
        # The state is saved before the server hears of the adapters.
        update = client.finish(task.round)
        self._conversation.say(self._steps.worked())
        self._now.sums.trained(task.round, self._steps.tokens)
        self._files.save(FINISHED, task.round + 1, self._state())
        said = Trained(task.round) if self._now.sums.masks else _handed_in(self._desk, update)
        self._conversation.say(said)
        loss, rounds = self._steps.loss / client.settings.local_steps, client.settings.rounds
        self._observer.on_trained(task.round, rounds, loss, *self._conversation.moved, client.epsilon)

    def _evaluate(self, task: control.Evaluate) -> None:
        """Evaluate the held-out rows."""
        self._conversation.say(control.Started(task.round, control.EVALUATION))
        self._steps.start(task.round)
        self._steps.evaluated.clear()
        part = HeldOutPart(task.sample, task.whole, task.have)
        self._steps.carry(self.client, self.client.evaluate(task.round, part), EVAL_IN_FLIGHT)
        self._conversation.say(control.Evaluated(task.round))
        if self._steps.evaluated:
            self._tell_evaluated()

    def _tell_evaluated(self) -> None:
        of = self._steps.round, self.client.settings.rounds
        self._observer.on_evaluated(*of, self._steps.evaluated, *self._conversation.moved)

    def _state(self) -> State:
        """Return all that outlasts a round: the client's state, and what is kept of its samples."""
        own = {"memory": self.client.memory.state(), "data": self._now.data}
        return self.client.state() | own | self._now.sums.state()

    def _load_state(self, state: State) -> None:
        self._now.sums.forget()
        self.client.load_state(state)
        self.client.memory.load_state(state["memory"])


def _handed_in(desk: Desk | None, answer: SumAnswer | AdapterUp) -> SumAnswer | AdapterUp:
    """Return what the server gets of an update; with an aggregator, once that has it."""
    return desk.hand_in(answer) if desk is not None and isinstance(answer, AdapterUp) else answer


def _turn_back(conversation: Conversation, error: SplitFTError) -> None:
    """Tell the server that this client cannot take part yet."""
    reason = str(error) if isinstance(error, MismatchError) else _why(error)
    conversation.say(control.Failed(reason, again=True))
    conversation.dialler.close()


def _unfollowed(request: control.Said) -> str:
    return f"the server's {type(request).__name__} cannot be followed"


def _why(error: SplitFTError) -> str:
    """Return the server's version of an error: never the text, which may quote the data."""
    what = {
        DataError: "its data cannot be used",
        ModelError: "it cannot load its part of the model",
        OutputError: "it cannot write its files",
        AggregatorError: "the aggregator does not let it go on",
        PolicyError: "its owner's policy, or agreement, does not cover what this server asks for",
    }
    if isinstance(error, DivergedError):
        return control.DIVERGED
    return what.get(type(error), "it cannot take part in this job") + "; its own output says why"

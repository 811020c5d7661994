"""The local steps and the evaluations of a client: batches go up, answers come down, each in its time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from splitft.client.client import ClientRole
from splitft.engines.network.control import Worked
from splitft.engines.network.conversation import Conversation
from splitft.engines.network.timing import Stopwatch
from splitft.wire.messages import Gradients, HeldOut, LocalLoss, Message, Metrics, TrunkOutput


class StepsOverError(Exception):
    """A request, the only argument, came that ends the steps or the evaluation under way."""


@dataclass(eq=False)
class LocalSteps:
    """The messages of one client's steps.

    Attributes:
        evaluated: Of the last evaluation, batch by batch.
        tokens: Of the training rows of a whole model in the local steps under way.
        front, tail: Seconds of computing in the local steps under way.
    """

    conversation: Conversation
    evaluated: list[Metrics] = field(default_factory=list)
    front: Stopwatch = field(default_factory=Stopwatch, init=False)
    tail: Stopwatch = field(default_factory=Stopwatch, init=False)
    tokens: int = field(default=0, init=False)
    round: int = field(default=0, init=False)
    loss: float = field(default=0.0, init=False)  # of the local steps under way: sum over the steps
    _on_the_way: int = field(default=0, init=False)  # batches that are sent and not answered to the end

    def start(self, round_: int) -> None:
        """Begin with nothing on its way."""
        self.front, self.tail, self._on_the_way, self.tokens = Stopwatch(), Stopwatch(), 0, 0
        self.loss, self.round = 0.0, round_

    def worked(self) -> Worked:
        """Return the seconds of computing of the local steps that are done."""
        return Worked(self.round, self.front.seconds, self.tail.seconds)

    def train(self, client: ClientRole, round_: int) -> None:
        """Take the local steps of a round."""
        self.start(round_)
        # With staleness, batches of later steps go up before the gradients of this one are down.
        for step in range(client.settings.local_steps):
            most = client.ahead + client.micro_batches
            self.carry(client, self._forwards(client, round_, step), most, left=client.ahead)
        self.carry(client, iter(()), 1)

    def _forwards(self, client: ClientRole, round_: int, step: int) -> Iterator[Message]:
        for micro_step in range(client.micro_steps):
            with self.front:
                message = client.forward(round_, step, micro_step)
            yield message

    def carry(self, client: ClientRole, messages: Iterator[Message], most: int, left: int = 0) -> None:
        """Send messages with at most `most` batches unanswered; return when `left` remain unanswered."""
        for message in messages:
            self.conversation.say(message)
            self._note(message)
            self._on_the_way += not isinstance(message, LocalLoss | Metrics | HeldOut)
            # With the whole model here nothing comes down in steps: what comes is another request.
            if not client.settings.splits_model and self.conversation.came:
                raise StepsOverError(self.conversation.take())
            while self._on_the_way >= most:
                self._on_the_way -= self._answer(client)
        while self._on_the_way > left:
            self._on_the_way -= self._answer(client)

    def _answer(self, client: ClientRole) -> bool:
        """Answer the next message of the server; return whether that ends the way of its batch."""
        reply = self.conversation.take()
        if not isinstance(reply, Gradients | TrunkOutput | Metrics):
            raise StepsOverError(reply)
        self._note(reply)
        with self.tail if isinstance(reply, TrunkOutput) else self.front:
            answer = client.answer(reply)
        if answer is None:
            return True
        self.conversation.say(answer)
        self._note(answer)
        return isinstance(answer, Metrics)

    def _note(self, message: Message) -> None:
        if isinstance(message, Metrics):
            self.evaluated.append(message)
        elif isinstance(message, Gradients | LocalLoss):
            self.loss += message.loss  # a micro-batch's share of its step's mean
            if isinstance(message, LocalLoss):
                self.tokens += sum(message.lengths)

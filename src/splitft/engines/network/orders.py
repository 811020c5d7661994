"""Orders of the operator to a running server: drop a client, admit one, pause, and another deadline.

A drop and an admission take effect between two rounds, and at once for a client that is away. Each is in
`orders.jsonl` with its round before it is answered, and in checkpoints: a run that is resumed follows them in
the same rounds.
"""

from __future__ import annotations

import concurrent.futures
import json
import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitft.common.files import append_mark
from splitft.common.notices import Notice
from splitft.common.text import first_few
from splitft.engines.network.membership import standing
from splitft.engines.network.roster import Roster
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.peers import Event
from splitft.errors import JobError, OutputError

ORDERS = "orders.jsonl"
DROPPED = "the operator has dropped it, and may admit it again"  # the reason of a refusal
Order = tuple[int, str, str]  # the round from which on it holds, a client, drop or admit
Answer = dict[str, Any]


def read_orders(folder: Path) -> list[Order]:
    """Return the orders of the run in a folder. Raises OutputError where the file is damaged."""
    path = folder / ORDERS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        found = [json.loads(line) for line in lines if line.strip()]
        return [(int(one["round"]), str(one["client"]), str(one["order"])) for one in found]
    except (ValueError, LookupError, TypeError) as error:
        raise OutputError(f"{path} cannot be read ({error}): put a copy of it back") from None


@dataclass(eq=False)
class Orders:
    """The orders of one run. `ask` is called in any thread, all else in the one that computes."""

    roster: Roster
    listener: Listener
    folder: Path
    notice: Callable[[str], None]
    changed: Callable[[Roster], None] = lambda roster: None  # called where a standing changes
    paused: bool = field(default=False, init=False)
    round: int = field(default=0, init=False)  # under way
    _between: bool = field(default=False, init=False)  # it is over
    _came: queue.SimpleQueue[tuple[Mapping[str, Any], Future[Answer]]] = field(
        default_factory=queue.SimpleQueue, init=False
    )

    def __post_init__(self) -> None:
        self._given = [order for order in read_orders(self.folder) if order[1] in self.roster]

    def ask(self, request: Mapping[str, Any], seconds: float = 60.0) -> Answer:
        """Have a request followed, and return the answer, with `error` where it is refused."""
        if request.get("do") == "status":
            return self.status()
        answer: Future[Answer] = Future()
        self._came.put((request, answer))
        self.listener.events.put(Event("woken", ""))
        try:
            return answer.result(seconds)
        except concurrent.futures.TimeoutError:
            return {"told": "the server computes, and will follow as soon as that is done"}

    def status(self) -> Answer:
        """Return the standing of every client, since when, and what has been ordered."""
        now, wall = self.roster.now(), time.time()
        clients = {
            name: {
                "standing": "leaving" if member.leaving and not member.out else standing(member),
                "since": round(wall - (now - member.changed), 3),
                "reason": member.expelled or member.problem or (DROPPED if member.off else ""),
                "rows": member.rows,
            }
            for name, member in self.roster.items()
        }
        config = self.roster.config
        return {
            "paused": self.paused, "round": self.round, "round_seconds": config.round_seconds,
            "min_clients": config.min_clients, "clients": clients,
        }  # fmt: skip

    def take_in(self) -> None:
        """Follow the requests that have come."""
        while not self._came.empty():
            request, answer = self._came.get()
            try:
                told = self._follow(request)
            except (JobError, OutputError) as error:
                answer.set_result({"error": str(error)})
            else:
                self.notice(Notice(f"operator: {told}", "operator"))
                answer.set_result({"told": told})

    def wait(self, pump: Callable[[], None]) -> None:
        """Wait between two rounds while the operator wants so. pump: takes in what comes."""
        self._between = True
        while self.paused:
            pump()
        self._between = False

    def begin(self, round_: int) -> None:
        """Have the orders that hold from a round on take effect: it begins now."""
        self.round = round_
        now = {name: order for at, name, order in self._given if at <= round_}
        later = {name: order for _, name, order in self._given}
        for name, member in self.roster.items():
            dropped, was_out = now.get(name) == "drop", member.out
            returns = dropped and later[name] == "admit"  # it may connect already
            if dropped and not member.out:
                member.not_ready("")
                member.save(  # nothing of this round is left to it
                    member.done, member.exact, trained_last=member.trained_last
                )
                if not returns:
                    self.listener.suspend(name, DROPPED)
            elif not dropped and member.out and not member.there:
                member.not_ready("")  # it is waited for from now on
            member.suspension.order(now=dropped, next_=not dropped and later.get(name) == "drop")
            if was_out and (not dropped or returns):
                self.listener.lift(name)
        self.changed(self.roster)

    def state(self) -> list[list[Any]]:
        """Return the orders as a checkpoint holds them."""
        return [list(order) for order in self._given]

    def load_state(self, state: list[list[Any]]) -> None:
        """Take in the orders of a checkpoint: the file may be lost."""
        kept = [(int(at), str(name), str(order)) for at, name, order in state]
        self._given = kept + [order for order in self._given if order not in kept]

    def _follow(self, request: Mapping[str, Any]) -> str:
        """Follow a request; return what has been done. Raises JobError where it is refused."""
        match request.get("do"):
            case "drop":
                return self._drop(self._name(request))
            case "admit":
                return self._admit(self._name(request))
            case "pause" | "resume" as what:
                self.paused = what == "pause"
                return f"the run pauses before round {self.round + 1}" if self.paused else "the run goes on"
            case "deadline":
                seconds = request.get("seconds")
                if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
                    raise JobError(f"a deadline is a number of seconds above 0, or none, not {seconds!r}")
                self.roster.set_deadline(seconds)
                if seconds is None:
                    return "rounds have no deadline"
                return f"from the next phase on clients are late after {seconds:g} seconds"
            case other:
                raise JobError(
                    f"an operator asks for status, drop, admit, pause, resume or deadline, not {other!r}"
                )

    def _name(self, request: Mapping[str, Any]) -> str:
        name = str(request.get("client"))
        if name not in self.roster:
            there = first_few(list(self.roster), 5)
            raise JobError(f"no client of this run is called {name}; there are {there}")
        return name

    def _drop(self, name: str) -> str:
        member = self.roster[name]
        if member.expelled or member.out or member.leaving:
            raise JobError(f"{name} takes part no more already")
        left, fewest = self.roster.left_without(name), self.roster.config.min_clients or 1
        if left < fewest:
            raise JobError(f"without {name} there are {left} clients, network.min_clients is {fewest}")
        at_once = not member.present and not member.finished
        round_ = self.round + (self._between or not at_once)
        self._give(round_, name, "drop")
        self.begin(self.round)
        return f"the run goes on without {name} from round {round_} on"

    def _admit(self, name: str) -> str:
        member = self.roster[name]
        if member.expelled:
            member.expel("", False)
            member.not_ready("")
            self.listener.lift(name, expelled=True)
            self.changed(self.roster)
            return f"{name} may come again"
        if not member.out and not member.leaving:
            raise JobError(f"{name} takes part already")
        self._give(self.round + 1, name, "admit")
        self.begin(self.round)
        return f"{name} may come again, and takes part from round {self.round + 1} on"

    def _give(self, round_: int, name: str, order: str) -> None:
        append_mark(self.folder / ORDERS, json.dumps({"round": round_, "client": name, "order": order}))
        self._given.append((round_, name, order))

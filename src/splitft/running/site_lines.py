"""The lines of a client while it trains: its own loss, its own held-out perplexity, bytes and time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from splitft.common.notices import Notice
from splitft.engines.network.site_observer import SiteObserver
from splitft.history import scores
from splitft.running.progress import clock, megabytes
from splitft.wire.messages import Metrics


@dataclass
class SiteLines(SiteObserver):
    """Says how a client's part of the run goes.

    say: prints a line. reading: returns further lines after the local steps of a round, given it and the
    job's rounds.
    """

    say: Callable[[str], None]
    reading: Callable[[int, int], Sequence[str]] | None = None
    _began: float | None = field(default=None, init=False)  # the end of the first round seen
    _first: int = field(default=0, init=False)  # that round
    left: float | None = field(default=None, init=False)  # seconds to the end of the run

    def on_trained(
        self, round_: int, rounds: int, loss: float, up: int, down: int, epsilon: float | None = None
    ) -> None:
        """Say the loss of a round's local steps."""
        self.left = left = self._seconds_left(round_, rounds)
        text = (
            f"round {round_} of {rounds}: own loss {loss:.3f}  ↑{megabytes(up)} ↓{megabytes(down)} MB so far"
        )
        text += "" if epsilon is None else f"  epsilon {epsilon:.3g}"
        text += f"  {clock(left)} left" if left else ""
        told: dict[str, Any] = {"round": round_, "rounds": rounds, "bytes_up": up, "bytes_down": down}
        told |= {} if epsilon is None else {"epsilon": epsilon}
        seconds = None if left is None else round(left, 1)
        self.say(Notice(text, "client.trained", **told, loss=loss, seconds_left=seconds))
        for line in self.reading(round_, rounds) if self.reading else ():
            self.say(Notice(line, "client.reading", round=round_))

    def on_evaluated(self, round_: int, rounds: int, metrics: Sequence[Metrics], up: int, down: int) -> None:
        """Say the figures of the held-out rows after a round, where there are any."""
        perplexity, accuracy, _ = scores(metrics)
        if perplexity is None or accuracy is None:
            return
        text = (
            f"after round {round_} of {rounds}: own held-out perplexity {perplexity:.2f}, "
            f"accuracy {100 * accuracy:.1f} %"
        )
        told: dict[str, Any] = {"round": round_, "rounds": rounds, "bytes_up": up, "bytes_down": down}
        self.say(Notice(text, "client.evaluated", **told, perplexity=perplexity, accuracy=accuracy))

    def _seconds_left(self, round_: int, rounds: int) -> float | None:
        """Return the time to the end of the run, by the rounds so far; None before the second one."""
        now = time.monotonic()
        if self._began is None or round_ <= self._first:
            self._began, self._first = now, round_
            return None
        return (now - self._began) / (round_ - self._first) * (rounds - round_)

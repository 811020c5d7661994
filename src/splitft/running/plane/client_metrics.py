"""Figures of a client's own part in a run: what its log says, round by round."""

from __future__ import annotations

import time
from collections.abc import Sequence

from splitft.engines.network.conversation import Conversation
from splitft.engines.network.site_observer import SiteObserver
from splitft.history import scores
from splitft.running.plane.figures import Figures
from splitft.running.site_lines import SiteLines
from splitft.wire.messages import Metrics


class ClientMetrics(SiteObserver):
    """Tells these figures. lines: gets every event first. conversation: counts the bytes."""

    def __init__(self, lines: SiteLines, conversation: Conversation) -> None:
        self._lines, self._conversation = lines, conversation
        self._trained: tuple[int, int, float, float | None, float | None] | None = None
        self._evaluated: tuple[float | None, float | None] = None, None
        self._ended: float | None = None  # the last round, by a clock that never goes back

    def on_trained(
        self, round_: int, rounds: int, loss: float, up: int, down: int, epsilon: float | None = None
    ) -> None:
        """Note a round: its number, those of the job, loss, seconds since the one before, and epsilon."""
        self._lines.on_trained(round_, rounds, loss, up, down, epsilon)
        now, before = time.monotonic(), self._ended
        seconds = None if before is None else now - before
        self._trained, self._ended = (round_, rounds, loss, seconds, epsilon), now

    def on_evaluated(self, round_: int, rounds: int, metrics: Sequence[Metrics], up: int, down: int) -> None:
        """Note the figures of the held-out rows."""
        self._lines.on_evaluated(round_, rounds, metrics, up, down)
        self._evaluated = scores(metrics)[:2]

    def tell(self, figures: Figures) -> None:
        """Tell the figures as they are now."""
        if self._trained is not None:
            round_, rounds, loss, seconds, epsilon = self._trained
            figures.gauge("round", "The last round in which this client has trained.", round_)
            figures.gauge("job_rounds", "Rounds of the job.", rounds)
            figures.gauge("loss", "Mean training loss of that round's local steps, of own rows.", loss)
            told = "Seconds from the end of one round's local steps to the end of the next one's."
            figures.gauge("round_duration_seconds", told, seconds)
            figures.gauge("epsilon", "Differential privacy that the own rows have spent.", epsilon)
            figures.gauge("left_seconds", "Predicted seconds to the end of the run.", self._lines.left)
        perplexity, accuracy = self._evaluated
        figures.gauge("perplexity", "Perplexity of the own held-out tokens, as last evaluated.", perplexity)
        told = "Share of the own held-out next tokens predicted right, as last evaluated."
        figures.gauge("accuracy_ratio", told, accuracy)
        told = "Bytes of messages in this process, by direction (up: to the server)."
        for way, count in zip(("up", "down"), self._conversation.moved, strict=True):
            figures.counter("transferred_bytes", told, count, direction=way)

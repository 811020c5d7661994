"""The events of one client's part in a run, for its owner."""

from __future__ import annotations

from collections.abc import Sequence

from splitft.wire.messages import Metrics


class SiteObserver:
    """Receives the events of a client, and does nothing with them.

    rounds: of the job. loss: the mean over the round's optimizer steps, of the client's own rows. up, down:
    bytes of all messages so far. metrics: of the held-out rows, batch by batch. epsilon: that the client's
    rows have spent; None without differential privacy.
    """

    def on_trained(
        self, round_: int, rounds: int, loss: float, up: int, down: int, epsilon: float | None = None
    ) -> None: ...
    def on_evaluated(
        self, round_: int, rounds: int, metrics: Sequence[Metrics], up: int, down: int
    ) -> None: ...

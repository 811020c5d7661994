"""Figures of an aggregator: what it holds, and what it has averaged."""

from __future__ import annotations

from splitft.engines.network.aggregator_process import AggregatorProcess
from splitft.engines.network.transport.admission import AuditLog
from splitft.running.plane.figures import Figures


class AggregatorMetrics:
    """Tells these figures."""

    def __init__(self, process: AggregatorProcess, audit: AuditLog) -> None:
        self._process, self._audit = process, audit

    def tell(self, figures: Figures) -> None:
        """Tell the figures as they are now."""
        process = self._process
        figures.gauge("round", "The last round that was averaged.", process.round)
        figures.gauge("job_rounds", "Rounds of the job.", process.settings.rounds)
        figures.counter("averages", "Averages that were sent to the server.", process.averages)
        figures.gauge("clients_with_updates", "Clients whose last update is here.", process.held)
        figures.counter("refusals", "Connections and clients that were refused.", self._audit.total())

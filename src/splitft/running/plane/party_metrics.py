"""Figures that every party has: version, certificates, whether it drains, and its notices by event."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from pathlib import Path

from splitft.common.draining import draining_has_begun
from splitft.engines.network.transport.pem import CA, CLIENT, SERVER, certificates_in
from splitft.errors import NetworkError, OutputError
from splitft.running.plane.figures import Figures


class PartyMetrics:
    """Tells these figures. certs: folder of certificates. events: counts by event and level, as they grow."""

    def __init__(self, party: str, certs: Path | None, events: Counter[tuple[str, str]]) -> None:
        self._party, self._certs, self._events = party, certs, events

    def tell(self, figures: Figures) -> None:
        """Tell the figures as they are now."""
        told = "1, with the party and its version."
        figures.gauge("build_info", told, 1, party=self._party, version=version("splitft"))
        told = "1 from the moment on in which the process was told to stop."
        figures.gauge("draining", told, float(draining_has_begun()))
        for (event, level), count in sorted(self._events.items()):
            figures.counter("events", "Notices of the log, by event.", count, event=event, level=level)
        for name in (CA, SERVER, CLIENT) if self._certs else ():
            told = "When a certificate of the party's folder ends, in seconds since 1970."
            figures.gauge("certificate_expiry_timestamp_seconds", told, self._end(name), file=name)

    def _end(self, name: str) -> float | None:
        """Return when a file's first certificate to end does so; None where there is none."""
        assert self._certs is not None
        try:
            found = certificates_in(self._certs / name)
        except (NetworkError, OutputError):
            return None
        return min(one.not_valid_after_utc for one in found).timestamp()

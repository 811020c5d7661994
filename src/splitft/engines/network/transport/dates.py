"""Reminders of certificates that end soon: when a party starts, and each day while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

SOON_DAYS = 30
AGAIN_SECONDS = 86400.0  # between two lines about one certificate


def ends_soon(name: str, ends: datetime, remedy: str, days: int = SOON_DAYS) -> str:
    """Return a line about a certificate that ends within so many days or has ended, empty for others."""
    left = ends - datetime.now(timezone.utc)
    if left > timedelta(days=days):
        return ""
    if left < timedelta(0):
        return f"the certificate {name} ended on {ends:%Y-%m-%d %H:%M} UTC: {remedy}"
    return f"the certificate {name} ends on {ends:%Y-%m-%d}, in {left.days} days: {remedy}"


class Reminders:
    """Says at most one line a day about each certificate. clock: seconds, which never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[tuple[str, datetime], float] = {}

    def look(
        self, name: str, ends: datetime, remedy: str, say: Callable[[str], None], days: int = SOON_DAYS
    ) -> None:
        """Say a line about a certificate that ends within so many days, a day after the last one."""
        line, now = ends_soon(name, ends, remedy, days), self._clock()
        said = self._said.get((name, ends))
        if line and (said is None or now - said >= AGAIN_SECONDS):
            self._said[name, ends] = now
            say(line)

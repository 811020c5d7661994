"""What several tests of invariants share."""

from __future__ import annotations

from typing import Any

import pytest

from splitft.running.parties import Parties, make_parties


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Parties]:
    """The parties of runs, so that a test may look at what no file shows: optimizer state."""
    seen: list[Parties] = []

    def keep(*args: Any, **kwargs: Any) -> Parties:
        seen.append(make_parties(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr("splitft.running.parties.make_parties", keep)
    return seen

"""Which cases of a test run in `make test`, and which in `make test-slow` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rest_slow(cases: Iterable[Any], quick: int | Collection[Any]) -> list[Any]:
    """Mark all cases as slow but the quick ones: so many of the first, or these.

    The slow suite runs all of them; the quick suite those that have least in common.
    """
    cases = list(cases)
    kept = cases[:quick] if isinstance(quick, int) else quick
    assert all(case in cases for case in kept)
    return [case if case in kept else _slow(case) for case in cases]


def _slow(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)

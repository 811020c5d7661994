"""What contract checks share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from splitft.errors import SplitFTError


@contextmanager
def contract() -> Iterator[None]:
    """Turn a refusal, as a run words it, into an AssertionError."""
    try:
        yield
    except SplitFTError as error:
        raise AssertionError(str(error)) from error


def require(holds: bool, problem: str) -> None:
    """Raise AssertionError with the problem unless something holds; also under `python -O`."""
    if not holds:
        raise AssertionError(problem)

"""Leakage: evaluation rows whose text is also a training row's, white space aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Sequence
from typing import Any


def text_digest(sample: Sequence[Any]) -> bytes:
    """Return 16 bytes that are equal for samples of equal text; all white space counts as one blank."""
    parts = (part if isinstance(part, str) else json.dumps(part, sort_keys=True) for part in sample)
    words = " ".join(" ".join(parts).split())
    return hashlib.blake2b(words.encode(), digest_size=16).digest()


def count_leaked(samples: Iterable[Sequence[Any]], trained: Container[bytes]) -> int:
    """Return the number of samples whose digest is among those of the training rows."""
    return sum(text_digest(sample) in trained for sample in samples)

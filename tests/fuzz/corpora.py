"""The corpus: inputs kept in the repository, a folder a target; those that once failed, and real messages."""

from __future__ import annotations

from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def corpus(target: str) -> dict[str, bytes]:
    """Return the inputs kept for a target, by name."""
    return {path.stem: path.read_bytes() for path in sorted((CORPUS / target).glob("*.bin"))}

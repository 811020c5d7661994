"""Privacy modes: what a job says of its server's view of the rows, each held to its rules at load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from splitft.job.redaction import pattern_problems
from splitft.job.sections import Strict, key

PrivacyMode = Literal["server_reads", "not_stored", "no_activations", "sum_only"]
Broken = Callable[[Mapping[str, Any]], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class Mode:
    """One mode.

    Attributes:
        promise: What is true by construction in a job that this mode does not refuse.
        broken: Yields (key, reason) for everything in a job that contradicts the promise.
    """

    promise: str
    broken: Broken


class PrivacySettings(Strict):
    """The privacy mode."""

    privacy: PrivacyMode | None = key(
        None,
        "What the server gets of the rows, in the job's own word; a job that contradicts it is refused. "
        "server_reads: what the job's other keys say, and the server may read it. not_stored: the same, but "
        "the server writes no activations, labels or token ids to its disk. no_activations: the server gets "
        "adapters, losses, lengths of rows and evaluation figures alone (needs method fed_lora). sum_only: "
        "the same, and of adapters sums over 3 clients or more alone (needs secure_aggregation). A job over "
        "a network must state it; see docs/choosing.md.",
    )


def broken_privacy_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for what a privacy mode refuses, and of redactions; see `broken_rules`."""
    yield from (("redact.patterns", problem) for problem in pattern_problems(job.get("redact.patterns")))
    mode = MODES.get(job.get("privacy") or "")
    if mode is not None:
        yield from mode.broken(job)


def promises() -> dict[str, str]:
    """Return {mode: what is true by construction}, in the order of the modes."""
    return {name: mode.promise for name, mode in MODES.items()}


def _nothing(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return iter(())


def _not_stored(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if job.get("codec") == "delta":
        yield (
            "codec",
            "privacy not_stored: with delta the server's checkpoints hold each sample's activations, sealed: "
            "set int4 or int8, or privacy: server_reads",
        )
    if job.get("num_sample_continuations"):
        yield (
            "num_sample_continuations",
            "privacy not_stored: the summary would hold text of held-out rows: leave it out",
        )


def _no_activations(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    method = job.get("method")
    if method in ("splitft", "same_split"):
        yield (
            "method",
            f"privacy no_activations: with {method} every row's activations go to the server, which can "
            "rebuild text from them: set method: fed_lora, or privacy: server_reads",
        )
    elif method == "centralized":
        yield "method", "privacy no_activations: with centralized all rows lie in one place"


def _sum_only(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _no_activations(job)
    if job.get("method") == "fed_lora" and job.get("secure_aggregation") is not True:
        yield (
            "secure_aggregation",
            "privacy sum_only: without it the server, or an aggregator, gets each client's own adapter: set "
            "true, or privacy: no_activations",
        )


# A mode is a line here and a name in PrivacyMode; `broken` of a stricter mode yields from the weaker one's.
MODES = {
    "server_reads": Mode("none: the server may read all that the job's other keys send it", _nothing),
    "not_stored": Mode(
        "the server writes no activations, labels or token ids to its disk; it may read them as they come",
        _not_stored,
    ),
    "no_activations": Mode(
        "nothing computed from a token goes to the server but adapters, losses, lengths of rows and "
        "evaluation figures",
        _no_activations,
    ),
    "sum_only": Mode(
        "the same, and no party gets a client's own adapter, only sums over 3 clients or more",
        _sum_only,
    ),
}

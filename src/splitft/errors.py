"""Errors that a person can act on; each family has its own exit code (documented in docs/reference.md)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class SplitFTError(Exception):
    """Base of all expected errors: the CLI prints the message alone and exits with `exit_code`."""

    exit_code = 1


class JobError(SplitFTError):
    """The job file, an override or a command's arguments are wrong (exit code 2)."""

    exit_code = 2


def unknown_name(kind: str, name: str, names: Sequence[str], register_name: str) -> JobError:
    """Return the error for a name that nobody has registered, the nearest one and the sources of others."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return JobError(
        f"no {kind} is called {name}; {hint}there are {', '.join(names)}; others come from --plugin "
        f"MODULE, from an installed package with a plugin, or from splitft.{register_name}"
    )


class DataError(SplitFTError):
    """Data cannot be read, or cannot be dealt as the job asks (exit code 3)."""

    exit_code = 3


class ModelError(SplitFTError):
    """The model is missing, or cannot be split, adapted or loaded (exit code 4)."""

    exit_code = 4


class MismatchError(ModelError):
    """The base model, the tokenizer or the messages here are not those of the other party."""


class OutputError(SplitFTError):
    """The output folder cannot be written, or already holds another run (exit code 5)."""

    exit_code = 5


class NetworkError(SplitFTError):
    """The network, a certificate or another party does not let a run go on (exit code 6)."""

    exit_code = 6


class LostError(NetworkError):
    """No server has answered for so long that the run counts as lost."""


class AggregatorError(NetworkError):
    """The aggregator breaks the protocol, or lets a run go on no more."""


class DivergedError(SplitFTError):
    """Training diverged: a loss, an activation or an adapter is not finite any more (exit code 7)."""

    exit_code = 7

    @classmethod
    def of(cls, what: str) -> DivergedError:
        """Return the error for a figure that is not finite, with advice."""
        return cls(f"training has diverged: {what}; lower learning_rate, or set max_grad_norm")


class PolicyError(SplitFTError):
    """A site's policy, or its owner's agreement, refuses what a server asks for (exit code 8)."""

    exit_code = 8


class ReadableError(SplitFTError):
    """An audit read more of the text than the caller allows (exit code 10)."""

    exit_code = 10

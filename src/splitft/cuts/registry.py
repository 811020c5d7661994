"""Cut policies by name: the built-in ones, and those that a user registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import overload

from splitft.cuts.accuracy import accuracy, splitft
from splitft.cuts.explicit import fixed, schedule
from splitft.cuts.makespan import makespan
from splitft.cuts.observe import CutPolicy
from splitft.cuts.resource import resource
from splitft.errors import JobError, unknown_name
from splitft.job.settings import FederationSettings

_BUILT_IN: dict[str, CutPolicy] = {
    "fixed": fixed,
    "schedule": schedule,
    "resource": resource,
    "accuracy": accuracy,
    "splitft": splitft,
    "makespan": makespan,
}
_REGISTERED: dict[str, CutPolicy] = {}


@overload
def register_cut_policy(name: str, function: CutPolicy) -> CutPolicy: ...
@overload
def register_cut_policy(name: str, function: None = None) -> Callable[[CutPolicy], CutPolicy]: ...
def register_cut_policy(
    name: str, function: CutPolicy | None = None
) -> CutPolicy | Callable[[CutPolicy], CutPolicy]:
    """Make a policy of your own known as `cut_policy.method: NAME` in this process.

    Call it as `register_cut_policy(name, function)` or as the decorator `@register_cut_policy(name)`. The
    function takes an Observation and the job's CutPolicyConfig, and returns a Proposal or plainly
    {client: blocks}. It must be pure: a decision is replayed by calling it again. A name of your own may be
    registered anew. Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    if not isinstance(name, str) or not name:
        raise JobError(f"the name of a cut policy must be a string that is not empty, not {name!r}")
    if name in _BUILT_IN:
        raise JobError(f"{name} is a built-in cut policy: register yours under another name")

    if function is None:
        return partial(register_cut_policy, name)
    if not callable(function):
        raise JobError(f"cut policy {name} must be a function, not {function!r}")
    _REGISTERED[name] = function
    return function


def policy_names() -> list[str]:
    """The names of all policies: the built-in ones, then those registered, each in the order of making."""
    return [*_BUILT_IN, *_REGISTERED]


def find_cut_policy(name: str) -> CutPolicy:
    """The policy of a name. Raises JobError with the nearest name and the list of all."""
    policy = _BUILT_IN.get(name) or _REGISTERED.get(name)
    if policy is None:
        raise unknown_name("cut policy", name, policy_names(), "register_cut_policy")
    return policy


def check_cut_policy(job: FederationSettings) -> None:
    """Raise JobError where the job names a policy that nobody has registered.

    A job file may name a policy that its reader registers later, so this is checked when work on a job
    starts, before anything heavy.
    """
    try:
        find_cut_policy(job.cut_policy.method)
    except JobError as error:
        raise JobError(f"cut_policy.method: {error}") from None

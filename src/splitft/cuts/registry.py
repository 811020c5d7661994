"""Cut policies by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

from splitft.common.registry import Registry
from splitft.cuts.accuracy import accuracy, splitft
from splitft.cuts.explicit import fixed, schedule
from splitft.cuts.makespan import makespan
from splitft.cuts.observe import CutPolicy
from splitft.cuts.resource import resource

CUT_POLICIES: Registry[CutPolicy] = Registry(
    "cut policy",
    "register_cut_policy",
    {
        "fixed": fixed,
        "schedule": schedule,
        "resource": resource,
        "accuracy": accuracy,
        "splitft": splitft,
        "makespan": makespan,
    },
)


@overload
def register_cut_policy(name: str, function: CutPolicy) -> CutPolicy: ...
@overload
def register_cut_policy(name: str, function: None = None) -> Callable[[CutPolicy], CutPolicy]: ...
def register_cut_policy(
    name: str, function: CutPolicy | None = None
) -> CutPolicy | Callable[[CutPolicy], CutPolicy]:
    """Register a cut policy of your own as `cut_policy.method: NAME`; without a function, a decorator.

    function: takes an Observation and the job's CutPolicyConfig, and returns a Proposal or plainly
        {client: blocks}. It must be pure: a decision is replayed by calling it again.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return CUT_POLICIES.register(name, function)

"""Checks of a policy's answer: users write policies, too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, NoReturn

from splitft.common.text import nearest
from splitft.cuts.observe import Observation, Proposal
from splitft.errors import JobError


def checked(policy: str, answer: object, observation: Observation) -> Proposal:
    """Return the answer as a Proposal with plain floats, texts and JSON values.

    Raises JobError, with the policy, the client and the value, for whatever is not a finite number for each
    client exactly once, and for reasons and state that could not be recorded.
    """
    if isinstance(answer, Mapping):
        answer = Proposal(answer)
    if not isinstance(answer, Proposal) or not isinstance(answer.targets, Mapping):
        _refuse(policy, f"{_shown(answer)}, not {{client: blocks}} or a Proposal")
    names = {client.name: None for client in observation.clients}  # a set that keeps the order
    missing = [name for name in names if name not in answer.targets]
    if missing:
        _refuse(policy, f"no target for client {missing[0]}: every client needs one")
    if not isinstance(answer.reasons, Mapping):
        _refuse(policy, f"reasons {_shown(answer.reasons)}, not {{client: text}}")
    for name in [*answer.targets, *answer.reasons]:
        if name not in names:
            hint = nearest(name, names, "; ")
            _refuse(policy, f"a value for {_shown(name)}, which is no client of this round{hint}")
    targets = {name: _number(policy, name, answer.targets[name]) for name in names}
    for name, reason in answer.reasons.items():
        if not isinstance(reason, str):
            _refuse(policy, f"the reason {_shown(reason)} for client {name}, not a text")
    reasons = {name: answer.reasons[name] for name in names if name in answer.reasons}
    return Proposal(targets, reasons, json_state(policy, answer.state), bool(answer.at_once))


def json_state(policy: str, state: object) -> dict[str, Any]:
    """A copy of a state as it comes back from its record. Raises JobError where it cannot be recorded."""
    if not isinstance(state, Mapping):
        _refuse(policy, f"the state {_shown(state)}, not a mapping")
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(state), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        _refuse(policy, f"a state that cannot be recorded as JSON: {error}")
    return copied


def _number(policy: str, name: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse(policy, f"{_shown(value)} for client {name}: a target is a finite number of blocks")
    return number


def _refuse(policy: str, what: str) -> NoReturn:
    raise JobError(f"cut policy {policy} returned {what}")


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out thousands of digits
        text = "a huge integer"
    return text if len(text) <= 60 else f"a {type(value).__name__}"

"""Arms of a comparison: methods and varied keys as named sets of overrides. Pure."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from splitft.common.text import nearest
from splitft.job.yaml import parse_yaml
from splitft.running.methods import METHODS

_RESERVED = {"seed": "--seeds N", "output_dir": "--out FOLDER"}


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: its name in tables and plots, and the (dotted) job keys that it sets."""

    label: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


def algorithms(server_optimizers: Sequence[str], objectives: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return {entry of --methods: the keys that it sets} of the names of algorithms, fedavg first.

    Each is one algorithm alone: a server optimizer with the plain objective, or an objective without one.
    """
    plain = {"server_optimizer": "none", "objective": "plain"}
    named = {name: {**plain, "objective": name} for name in objectives if name != "plain"}
    named |= {name: {**plain, "server_optimizer": name} for name in server_optimizers if name != "none"}
    return {"fedavg": plain, **named}


def method_overrides(name: str, policy: str) -> dict[str, Any]:
    """Return the keys that an entry of --methods sets, in a job whose cut policy is `policy`.

    A job method sets `method`; the name of a cut policy means method splitft with that policy. The method
    splitft takes the policy splitft, unless the job has chosen one that moves cuts already.
    """
    if name == "splitft":
        chosen = "splitft" if policy == "fixed" else policy
    elif name in METHODS.names():
        return {"method": name}
    else:
        chosen = name
    if chosen == policy:
        return {"method": "splitft"}
    # A job may have a schedule only where its policy follows it.
    idle = {"cut_policy.schedule": None} if policy == "schedule" else {}
    return {"method": "splitft", "cut_policy.method": chosen, **idle}


def parse_methods(text: str | None, others: Collection[str]) -> tuple[list[str], list[str]]:
    """Read `a,b,c`; return the names and what is wrong with them.

    others: names of cut policies and algorithms.
    """
    if text is None:
        return [], []
    names = [name.strip() for name in text.split(",")]
    known = list(dict.fromkeys([*METHODS.names(), *others]))
    problems = [f"--methods: {name} is given twice" for name, count in Counter(names).items() if count > 1]
    for name in dict.fromkeys(names):
        if name not in known:
            hint = nearest(name, known) or f"there are {', '.join(known)}"
            problems.append(f"--methods: no method, cut policy or algorithm is called {name!r}; {hint}")
    return names, problems


def parse_vary(texts: Sequence[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """Read `KEY=[V1,V2]` options; return {key: values} and what is wrong with them."""
    varied: dict[str, list[Any]] = {}
    problems: list[str] = []
    for text in texts:
        key, _, listed = text.partition("=")
        try:
            values, found = parse_yaml(listed)
        except ValueError as error:
            values, found = None, [str(error)]
        if key in _RESERVED:
            found = [f"is set by {_RESERVED[key]}"]
        elif key in varied:
            found = ["is varied twice; give all of its values in one list"]
        elif not found and (not key or not isinstance(values, list) or not values):
            found = ["write KEY=[V1,V2,...], e.g. --vary 'lora_r_cut=[1,2,4]'"]
        elif not found and any(values.count(value) > 1 for value in values):
            found = ["has a value twice"]
        problems += [f"--vary {key or text}: {problem}" for problem in found]
        varied.setdefault(key, values if isinstance(values, list) else [])
    return varied, problems


def make_arms(
    methods: Sequence[str],
    varied: Mapping[str, Sequence[Any]],
    policy: str,
    named: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Arm]:
    """Return every combination of a method and a value of each varied key, in their order.

    Without methods, the job's own one is in all arms. A varied `method` or `cut_policy.method` wins over
    what an entry of `methods` sets.

    Args:
        policy: The job's own cut policy.
        named: The keys that the entries of algorithms set, see `algorithms`.
    """
    named = named or {}
    chosen = [(m, dict(named[m]) if m in named else method_overrides(m, policy)) for m in methods]
    axes: list[list[tuple[str, dict[str, Any]]]] = [chosen or [("", {})]]
    for key, values in varied.items():
        axes.append([(text, {key: value}) for value in values for text in override_texts({key: value})])
    arms = []
    for choice in itertools.product(*axes):
        overrides: dict[str, Any] = {}
        for _, keys in choice:
            overrides |= keys
        arms.append(Arm(", ".join(label for label, _ in choice if label) or "the job itself", overrides))
    return arms


def override_texts(values: Mapping[str, Any]) -> list[str]:
    """Return `key=value` texts that `load_job` reads as these values."""
    return [f"{key}={_flow_yaml(value)}" for key, value in values.items()]


def _flow_yaml(value: Any) -> str:
    """Return the value on one line. JSON is YAML but for its way of escaping rare characters."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)

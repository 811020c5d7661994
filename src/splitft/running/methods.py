"""Methods by name: splitft, the baselines, and those that a user registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from splitft.common.registry import Registry
from splitft.common.text import error_line
from splitft.errors import JobError
from splitft.job.settings import METHODS as BUILT_IN
from splitft.job.settings import SplitSettings

Method = Callable[[Any], Mapping[str, Any]]
METHODS: Registry[Method] = Registry("method", "register_method", {}, BUILT_IN)
J = TypeVar("J", bound=SplitSettings)


@overload
def register_method(name: str, function: Method) -> Method: ...
@overload
def register_method(name: str, function: None = None) -> Callable[[Method], Method]: ...
def register_method(name: str, function: Method | None = None) -> Method | Callable[[Method], Method]:
    """Register a method, a baseline for comparisons, as `method: NAME`; without a function, a decorator.

    function: takes the Job and returns the keys that the method fixes, as {key: value}; `method` among them
        names the built-in method that it runs (default: splitft). A section such as `cut_policy` is a dict.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return METHODS.register(name, function)


def with_method(job: J) -> J:
    """Return the job with the keys that its registered method fixes; a built-in method fixes none here.

    Raises JobError where nobody has registered the method, where it fails, or fixes what no job can have.
    """
    name = job.method
    if METHODS.is_built_in(name):
        return job
    METHODS.check("method", name)
    try:
        fixed = dict(METHODS.find(name)(job))
    except Exception as error:  # a method is any code
        raise JobError(f"method {name} failed: {error_line(error)}") from error
    fixed.setdefault("method", "splitft")
    if not METHODS.is_built_in(str(fixed["method"])):
        raise JobError(f"method {name} must run a built-in method, not {fixed['method']!r}")
    given = job.model_dump(exclude_unset=True)
    given["method_name"] = name
    for key, value in fixed.items():
        own = given.get(key)
        given[key] = {**own, **value} if isinstance(own, dict) and isinstance(value, dict) else value
    try:
        return type(job)(**given)
    except (JobError, ValueError) as error:
        raise JobError(f"method {name}: {error_line(error)}") from error

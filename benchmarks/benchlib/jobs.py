"""Keys of a job, as a benchmark's command line gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from splitft.job.yaml import parse_yaml


def values_of(settings: Sequence[str]) -> dict[str, Any]:
    """Return {key: value} of key=value, dotted keys nested."""
    found: dict[str, Any] = {}
    for setting in settings:
        path, given, value = setting.partition("=")
        if not given:
            raise SystemExit(f"{setting}: write key=value")
        *outer, key = path.split(".")
        inside = found
        for name in outer:
            inside = inside.setdefault(name, {})
        inside[key] = parse_yaml(value)[0]
    return found

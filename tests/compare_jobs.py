"""A job that comparisons vary."""

from __future__ import annotations

from typing import Any

from splitft import Job


def make_job(**changes: Any) -> Job:
    return Job(**{"model_name_or_path": "m", "dataset_name": "d", "labels": "server", **changes})

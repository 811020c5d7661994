"""Runs of a server and its clients in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Processes


@pytest.fixture
def processes(setting: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Processes]:
    """The parties of a job in one of the module's MODES.

    With an aggregator if ` apart` stands behind it; as first processes of containers with ` contained`.
    """
    mode, *how = request.param.split()
    settings = setting | request.module.MODES[mode]
    made = Processes(
        settings,
        tmp_path,
        names=request.module.NAMES,
        aggregator="apart" in how,
        contained="contained" in how,
    )
    yield made
    made.stop()

"""Runs of a server and its clients in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Processes


@pytest.fixture
def processes(setting: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Processes]:
    """The parties of a job in one of the module's MODES, with an aggregator if ` apart` stands behind it."""
    mode, _, apart = request.param.partition(" ")
    settings = setting | request.module.MODES[mode]
    made = Processes(settings, tmp_path, names=request.module.NAMES, aggregator=bool(apart))
    yield made
    made.stop()

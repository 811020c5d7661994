"""Every command and every Python example of these pages runs as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import EXECUTED, run_every_block


@pytest.mark.slow
@pytest.mark.parametrize("document", EXECUTED[1:])
def test_every_block_runs(document: str, tmp_path: Path) -> None:
    run_every_block(document, tmp_path)

"""A job file that comparisons vary."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(
        "model_name_or_path: m\ndataset_name: d\nlabels: server\nlora_r: 8\nseed: 7\ndevices: laptop\n"
    )
    return str(path)

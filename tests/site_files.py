"""Policies of clients that take whatever files a test's job names."""

from __future__ import annotations

from pathlib import Path


def write_open_policy(folder: Path) -> Path:
    """Write a policy under which --job-data reads any file of this machine; return it."""
    path = folder / "site.yaml"
    path.write_text("files: [/*]\n", encoding="utf-8")
    return path

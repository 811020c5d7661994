"""The published traffic of the paper follows from first principles."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from commands import run_process
from repository import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_counter", BENCHMARKS / "paper_counter.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_nine_published_cells_are_derived_within_a_tenth_of_a_mebibyte(paper: ModuleType) -> None:
    assert len(paper.CELLS) == 9
    for cell in paper.CELLS:
        assert abs(paper.total_bytes(cell.cut, cell.r_cut) / paper.MIB - cell.mib) <= 0.1, cell


def test_the_quantities_between_are_those_that_the_documents_name(paper: ModuleType) -> None:
    assert (paper.TURNS, paper.REST, paper.STEPS) == (57, 3, 1143)
    assert paper.VALUES_PER_RANK == 8448
    assert round(paper.FIRST / paper.MIB, 5) == 1.50272
    assert round(paper.STEP / paper.MIB, 5) == 3.00312
    # What a lower rank at the cut saves of the whole: 16 -> 8.
    saved = 1 - paper.total_bytes(2, 8) / paper.total_bytes(2, 16)
    assert round(100 * saved, 2) == 0.42


def test_the_script_prints_the_cells_and_succeeds() -> None:
    done = run_process([sys.executable, BENCHMARKS / "paper_bytes.py", "--derive-only"])
    assert done.returncode == 0, done.stderr
    assert "3475.4" in done.stdout and "within 0.1 MiB" in done.stdout

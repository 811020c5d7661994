"""The benchmark on instruction data: its questions, and the page's table held to the record."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from repository import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from instructions import CENTURIES, METHODS, OF_EACH, page_rows, write_rows


def test_as_many_questions_of_each_century_and_the_same_for_a_seed(tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}-{again}.jsonl" for seed, again in ((0, 0), (0, 1), (1, 0))]
    for file in files:
        assert write_rows(file, int(file.stem.split("-")[0])) == OF_EACH * len(CENTURIES)
    first, same, other = (file.read_text(encoding="utf-8") for file in files)
    assert first == same != other
    rows = [json.loads(line) for line in first.splitlines()]
    assert Counter(row["completion"] for row in rows) == {f" {name}": OF_EACH for name in CENTURIES.values()}
    assert all(row["prompt"].endswith("\nAnswer:") and row["speech"] for row in rows)
    assert len({row["prompt"] for row in rows}) > 0.99 * len(rows), "hardly any passage comes twice"


def test_a_difference_is_paired_by_seed_and_one_seed_has_no_interval() -> None:
    found = {
        "fed_lora": {0: {"adapter": 0.5}, 1: {"adapter": 0.6}},
        "same_split": {0: {"adapter": 0.51, "base": 0.0}, 1: {"adapter": 0.59, "base": 0.0}},
    }
    assert page_rows(found)[2:] == [
        "| the base model, no training | 0.000, 0.000 | 0.000 |  |",
        "| `fed_lora` | 0.500, 0.600 | 0.550 |  |",
        "| `same_split` | 0.510, 0.590 | 0.550 | +0.000 [−0.127, +0.127] |",
    ]
    one = {method: {0: seeds[0]} for method, seeds in found.items()}
    assert page_rows(one)[-1] == "| `same_split` | 0.510 | 0.510 | +0.010 |"


def test_the_pages_table_is_the_record() -> None:
    kept = json.loads((ROOT / "benchmarks/records/instructions.json").read_text(encoding="utf-8"))
    assert set(kept["methods"]) == set(METHODS)
    assert all(len(of) >= 3 for of in kept["methods"].values())
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in page_rows(kept["methods"]) if row not in page] == []

"""The tables of docs/audit.md are what was recorded."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import pytest

from repository import ROOT
from splitft.tools.audit.metrics import Estimate, verdict


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_audit_tables", ROOT / "docs" / "make_audit_tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_the_recorded_figures(script: ModuleType) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    assert text == script.page(), "run: python docs/make_audit_tables.py"
    assert all(command in text for command in script.COMMANDS.values())
    assert script.DEFENCES.read_text(encoding="utf-8") == script.page(script.DEFENCES)


def test_what_is_recorded_holds_together(script: ModuleType) -> None:
    """No text of any row, all checks passed, verdicts of the intervals, three minutes."""
    files = sorted(script.RECORDED.glob("*.json"))
    assert [file.stem for file in files] == sorted([*script.COMMANDS, "defences"])
    files = [file for file in files if file.stem in script.COMMANDS]
    for file in files:
        told = json.loads(file.read_text(encoding="utf-8"))
        assert "samples" not in told and len(told["lines"]) > 3
        assert all(check["ok"] for check in told["checks"]) and len(told["checks"]) == 3
        assert told["cpu_seconds"] <= 180, "three minutes, whatever else the machine does"
        for line in told["lines"]:
            if line["reading"]:
                assert line["verdict"] == verdict(Estimate(**line["reading"]["tokens"]))


def test_a_changed_figure_is_seen(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads((script.RECORDED / "none.json").read_text(encoding="utf-8"))
    told["lines"][1]["reading"]["tokens"]["value"] -= 0.01
    before = script.tables()
    monkeypatch.setattr(script.json, "loads", lambda text: told)
    assert script.tables() != before

"""ARCHITECTURE.md is held to the code: its length, and every path, function and class that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from documents import ROOT

PAGE = ROOT / "ARCHITECTURE.md"
SOURCE = ROOT / "src" / "splitft"
MOST_LINES = 130
# `server/step.py: trunk_step, Served.train` or a bare path; folders end in a slash.
NAMED = re.compile(r"`([\w./-]+(?:\.py|\.md|\.toml|/))(?::\s*([\w., ]+))?`")


def named() -> list[tuple[str, str]]:
    """(path, names in it) for every path of the page."""
    return NAMED.findall(PAGE.read_text(encoding="utf-8"))


def home(path: str) -> Path:
    """A path of the page lies in the package or, as tests and docs do, in the repository."""
    return next((root / path for root in (SOURCE, ROOT) if (root / path).exists()), SOURCE / path)


def definitions(path: Path) -> set[str]:
    """Names of a file's functions and classes; a class's members as Class.member."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{item.name}" for item in members}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_the_page_is_a_map_and_no_book() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize(("path", "names"), sorted(set(named())))
def test_everything_named_exists(path: str, names: str) -> None:
    assert home(path).exists(), path
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    assert not wanted or wanted <= definitions(home(path)), (path, wanted - definitions(home(path)))


def test_the_page_names_its_paths() -> None:
    """An expression that finds nothing would prove nothing."""
    assert len(named()) > 40
    assert any(names for _, names in named())


def test_every_package_is_on_the_map() -> None:
    text = PAGE.read_text(encoding="utf-8")
    packages = [path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert not [name for name in packages if f"`{name}/`" not in text]

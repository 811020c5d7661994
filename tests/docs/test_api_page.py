"""The page of the Python API has every public name, with a docstring, and every name that a guide imports."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module

from documents import PAGES, ROOT, TITLED

import splitft
import splitft.testing

PYTHON = re.compile(r"^```python(?: [^\n]*)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = re.findall(r"^::: ([\w.]+)", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE)


def found(name: str) -> object:
    """The thing of a dotted name."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last)


def test_every_public_name_is_there_once_and_has_a_docstring() -> None:
    wanted = [f"splitft.{name}" for name in splitft.__all__]
    wanted += [f"splitft.testing.{name}" for name in splitft.testing.__all__]
    assert len(SHOWN) == len(set(SHOWN)) and set(wanted) <= set(SHOWN), set(wanted) - set(SHOWN)
    for name in SHOWN:
        assert inspect.getdoc(found(name)), name


def test_every_name_that_a_guide_imports_is_there() -> None:
    shown = {id(found(name)) for name in SHOWN}
    imported = set()
    for page in PAGES:
        for code in PYTHON.findall(page.read_text(encoding="utf-8")):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "splitft":
                    imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    missing = {name for name in imported if id(found(name)) not in shown}
    assert imported and not missing, missing
    assert TITLED  # blocks with a title are among them


def test_methods_of_public_classes_have_docstrings() -> None:
    for name in SHOWN:
        thing = found(name)
        if inspect.isclass(thing):
            own = {key: value for key, value in vars(thing).items() if inspect.isfunction(value)}
            for key, value in own.items():
                assert key.startswith("_") or inspect.getdoc(value), f"{name}.{key}"

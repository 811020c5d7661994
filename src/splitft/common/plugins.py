"""Plugins: modules of a user that register pieces when they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from splitft.common.text import error_line
from splitft.errors import JobError

GROUP = "splitft.plugins"  # entry points of installed packages
_NAMED: list[str] = []  # plugins of this process that a person named
_LOADING: list[str] = []  # plugins that are being imported


def load_plugins(names: Iterable[str]) -> None:
    """Import modules that a person named: `package.module`, or the path of a .py file.

    A module is also looked for in the current folder. Raises JobError where one cannot be imported.
    """
    for name in names:
        _LOADING.append(name)
        try:
            _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
        except Exception as error:  # a plugin is any code
            raise JobError(f"--plugin {name}: {error_line(error)}") from error
        finally:
            _LOADING.pop()
        _NAMED.append(name)


def loading() -> str:
    """Return the name of the plugin that is being imported; empty where none is."""
    return _LOADING[-1] if _LOADING else ""


def plugin_options() -> list[str]:
    """Return the options with which a process of its own loads the plugins of this one."""
    return [word for name in dict.fromkeys(_NAMED) for word in ("--plugin", name)]


@cache
def load_installed() -> None:
    """Import the plugins of installed packages, once in a process.

    A built-in name never needs them: they are imported where a job names another one. Raises JobError where
    one cannot be imported.
    """
    for point in entry_points(group=GROUP):
        _LOADING.append(point.name)
        try:
            found = point.load()
            if callable(found):
                found()
        except Exception as error:  # a plugin is any code
            raise JobError(
                f"the installed plugin {point.name} ({point.value}) does not load: {error_line(error)}; mend "
                "or uninstall its package"
            ) from error
        finally:
            _LOADING.pop()


def _import_module(name: str) -> None:
    sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(name)
    finally:
        sys.path.remove(str(Path.cwd()))


def _import_file(path: Path) -> None:
    name = "splitft_plugin_" + re.sub(r"\W", "_", str(path.resolve().with_suffix("")))
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise

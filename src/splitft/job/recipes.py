"""Packaged recipes: complete, commented job files. `splitft new` copies them, `splitft run` runs them."""

from __future__ import annotations

import os
from pathlib import Path

from splitft.common.text import nearest
from splitft.errors import JobError, OutputError

_FOLDER = Path(__file__).parent / "recipes"


def recipes() -> dict[str, str]:
    """Name and one-line description (the file's first comment line) of every packaged recipe, by name."""
    found = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        with path.open(encoding="utf-8") as file:
            found[path.stem] = file.readline().lstrip("# ").strip()
    return found


def recipe_path(name: str) -> Path:
    """The packaged file of a recipe. Raises JobError for a name that is not one, with the nearest that is."""
    names = recipes()
    if name not in names:
        hint = nearest(name, names) or f"there are {', '.join(names)}."
        raise JobError(f"no recipe is called {name}; {hint} `splitft new` lists them")
    return _FOLDER / f"{name}.yaml"


def copy_recipe(name: str, path: Path) -> Path:
    """Copy a recipe to a file, or into a folder as NAME.yaml; return the file.

    Raises JobError for an unknown recipe, OutputError where a file is there or none can be written.
    """
    text = recipe_path(name).read_text(encoding="utf-8")
    path = path / f"{name}.yaml" if path.is_dir() else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        if os.path.lexists(path):  # a folder on the way that is a file raises FileExistsError, too
            raise OutputError(f"{path} is there already; name another: splitft new {name} PATH") from None
        raise OutputError(f"{path} cannot be written: {error.strerror}; name another") from None
    return path

"""Packaged recipes: complete, commented job files. `splitft new` copies them, `splitft run` runs them."""

from __future__ import annotations

from pathlib import Path

from splitft.common.text import nearest
from splitft.errors import JobError

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

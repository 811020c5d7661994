"""Hooks of mkdocs: pages of the repository outside docs/ become pages of the site, and links follow them.

Documents keep the links that work in a checkout: `../benchmarks/README.md`, `docs/cuts.md`.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# File of the repository: its place in the site.
BROUGHT = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "LICENSE": "LICENSE.txt",
    "CITATION.cff": "CITATION.cff",
    "benchmarks/README.md": "benchmarks.md",
    "examples/splitft-in-ten-minutes.ipynb": "examples/splitft-in-ten-minutes.ipynb",
    "deploy/nginx.conf": "deploy/nginx.conf",
    "deploy/envoy.yaml": "deploy/envoy.yaml",
}
# Targets of links and of pictures; code between back quotes has none.
LINK = re.compile(r"(?P<before>\]\(|(?:src|srcset|href)=\")(?!https?:|#|mailto:)(?P<path>[^)#\"\s]+)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the files outside docs/ that are there."""
    for source, place in BROUGHT.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links that leave docs/ to the places of their targets in the site."""
    place = page.file.src_uri
    homes = {to: source for source, to in BROUGHT.items()}
    home = dirname(homes.get(place, f"docs/{place}"))

    def moved(match: re.Match[str]) -> str:
        target = normpath(f"{home}/{match['path']}".lstrip("/"))
        new = BROUGHT.get(target, target.removeprefix("docs/"))
        return match["before"] + relpath(new, dirname(place) or ".")

    return LINK.sub(moved, markdown)

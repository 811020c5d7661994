"""The site of the documentation: built without a warning, with every public name, and spelled right."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import splitft
import splitft.testing
from commands import run_process
from repository import ROOT

TOOLS = ("mkdocs", "material", "mkdocstrings_handlers", "codespell_lib")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(find_spec, TOOLS)),
        reason="needs the extra docs: make test-slow installs it, make docs too",
    ),
]


def test_the_site_builds_without_a_warning_and_has_every_public_name(tmp_path: Path) -> None:
    """Strict: a link or an anchor that leads nowhere, or a page that the menu lacks, is a warning."""
    site = tmp_path / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--clean", "--strict", "--site-dir", site]
    done = run_process(build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    named = set(re.findall(r'id="(splitft\.[\w.]+)"', (site / "api.html").read_text(encoding="utf-8")))
    wanted = {f"splitft.{name}" for name in splitft.__all__}
    wanted |= {f"splitft.testing.{name}" for name in splitft.testing.__all__}
    assert wanted <= named, wanted - named

    # Pages of the whole repository, and nothing from elsewhere: no fonts, no scripts.
    pages = [*site.rglob("*.html")]
    assert {"index.html", "architecture.html", "benchmarks.html", "changelog.html"} <= {p.name for p in pages}
    for page in pages:
        loaded = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text("utf-8")
        )
        assert not loaded, (page.name, loaded)


def test_the_documents_and_the_source_are_spelled_right(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "codespell_lib", "--toml", ROOT / "pyproject.toml"]
    pages = [
        *ROOT.glob("*.md"),
        ROOT / "docs",
        ROOT / "benchmarks/README.md",
        ROOT / "src",
        ROOT / "examples",
    ]
    done = run_process([*call, *pages], cwd=ROOT)
    assert done.returncode == 0, done.stdout

    wrong = shutil.copy(ROOT / "docs/glossary.md", tmp_path / "page.md")
    Path(wrong).write_text("An adress that is wrong.\n", encoding="utf-8")
    assert "adress" in run_process([*call, wrong], cwd=ROOT).stdout  # it finds what is wrong

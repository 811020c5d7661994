"""The page on health and metrics names every figure that there is, and no other."""

from __future__ import annotations

import re

from documents import ROOT

PLANE = ROOT / "src/splitft/running/plane"
FIGURE = re.compile(r'figures\.(gauge|counter)\(\s*"(\w+)"')


def test_the_page_names_the_figures_of_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in PLANE.glob("*.py"))
    made = {f"splitft_{name}{'_total' * (kind == 'counter')}" for kind, name in FIGURE.findall(code)}
    page = (ROOT / "docs/observing.md").read_text(encoding="utf-8")
    assert set(re.findall(r"splitft_\w+", page)) == made and len(made) > 30

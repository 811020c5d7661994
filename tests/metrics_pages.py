"""Pages of metrics, read as Prometheus reads them."""

from __future__ import annotations

import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


class Page:
    """The figures of a page. `page("loss")` and `page("clients", state="away")` are values of SplitFT's."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((f"splitft_{name}", frozenset(labels.items())))

    def named(self, name: str) -> dict[frozenset[Any], float]:
        """The values of a figure by their labels."""
        return {labels: value for (of, labels), value in self.samples.items() if of == f"splitft_{name}"}


def scrape(port: int) -> Page:
    """Return the page at a port of this machine. Raises OSError where nothing answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return Page(answer.read().decode())

"""The documents whose commands and examples are run, and how."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from commands import run_process
from repository import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TITLED = re.compile(r'^```python title="(\w+\.py)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks/README.md"]
EXECUTED = [
    "README.md", "docs/how-to.md", "docs/cuts.md", "docs/codecs.md", "docs/speed.md", "docs/extending.md",
    "docs/evaluation.md", "docs/audit.md", "docs/redaction.md", "docs/tracking.md",
    "docs/tutorial/first-run.md",
    "docs/tutorial/own-data.md", "docs/tutorial/three-machines.md", "docs/tutorial/own-policy.md",
    "docs/certificates.md", "docs/observing.md",
]  # fmt: skip


def blocks_of(document: str) -> list[tuple[str, str]]:
    """Return (language, code) of every block of a document."""
    return BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))


def files_of(document: str) -> dict[str, str]:
    """Return {name: code} of every Python block that a title calls a file."""
    return dict(TITLED.findall((ROOT / document).read_text(encoding="utf-8")))


def run(command: list[str], cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    done = run_process(command, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_every_block(document: str, folder: Path, having: Sequence[str] = ("",)) -> None:
    """Run what is bash or Python, one after another, in one folder, with the files that titles name in it.

    Every run must have learnt something.

    having: Run only the blocks that contain one of these texts; each must be in one.
    """
    blocks = [
        (language, code) for language, code in blocks_of(document) if any(text in code for text in having)
    ]
    assert blocks and all(any(text in code for _, code in blocks) for text in having)
    for name, code in files_of(document).items():
        (folder / name).write_text(code, encoding="utf-8")
    for language, code in blocks:
        if language == "bash" and not code.startswith("make "):
            run(["bash", "-euc", code], folder)
        elif language == "python":
            run([sys.executable, "-c", code], folder)
    check_trained(folder)


def check_trained(folder: Path) -> None:
    """Assert that the runs below a folder, at least one, lowered the perplexity of their held-out rows."""
    histories = sorted(folder.rglob("history.jsonl"))
    assert histories
    for history in histories:
        lines = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
        seen = [line["perplexity"] for line in lines if line["perplexity"] is not None]
        name = history.parent.relative_to(folder)
        assert len(seen) > 1 and seen[-1] < seen[0], f"{name}: perplexity {seen}"
        summary = json.loads((history.parent / "summary.json").read_text(encoding="utf-8"))
        assert summary["adapter_changed"], f"{name}: the adapter did not change"

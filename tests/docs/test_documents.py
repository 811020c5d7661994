"""Every command and every Python example of the README and of the pages named here runs as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from splitft.job import load_job

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXECUTED = ["README.md", "docs/how-to.md", "docs/cuts.md"]


def run(command: list[str], cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("document", EXECUTED)
def test_every_block_runs(document: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))
    assert blocks
    for language, code in blocks:
        if language == "bash" and not code.startswith("make "):
            run(["bash", "-euc", code], tmp_path)
        elif language == "python":
            run([sys.executable, "-c", code], tmp_path)


def test_job_snippets_are_parts_of_valid_jobs(tmp_path: Path) -> None:
    """Pieces of job files on the pages, each with a model and data added where it has none."""
    for document in EXECUTED:
        for language, code in BLOCK.findall((ROOT / document).read_text(encoding="utf-8")):
            if language == "yaml" and "model_name_or_path" not in code:
                (tmp_path / "job.yaml").write_text(f"model_name_or_path: m\ndataset_name: d\n{code}")
                load_job(tmp_path / "job.yaml")


def test_make_demo_runs_the_quickstart(tmp_path: Path) -> None:
    """The same targets as a person's, with fewer steps; the whole demo is among the slow tests."""
    if not shutil.which("make"):
        pytest.fail("make is one of the two things a person needs")
    short = "rounds=1 local_steps=1 max_eval_samples=10"
    shown = run(["make", "demo", f"OUT={tmp_path / 'demo'}", f"ARGS={short}"], ROOT)
    assert "AutoPeftModelForCausalLM" in shown and "vllm serve" in shown and "llama-server" in shown
    for name in ("adapter/adapter_model.safetensors", "history.jsonl", "perplexity.png", "partition.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0


def test_only_known_targets_and_languages_stand_in_the_documents() -> None:
    """A block in a language that is not run here would be an unproven claim."""
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        assert {language for language, _ in BLOCK.findall(text)} <= {"bash", "python", "yaml"}, document
        for target in re.findall(r"`?make ([a-z-]+)", text):
            assert target in targets or target not in ("demo", "test", "bench"), (document, target)


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"

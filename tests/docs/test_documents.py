"""What stands in the documents beside the commands: parts of job files, targets of make, links."""

from __future__ import annotations

import re
from pathlib import Path

from documents import BLOCK, EXECUTED, ROOT, blocks_of

from splitft.job import load_job


def test_job_snippets_are_parts_of_valid_jobs(tmp_path: Path) -> None:
    """Pieces of job files on the pages, each with a model and data added where it has none."""
    for document in EXECUTED:
        for language, code in blocks_of(document):
            if language == "yaml" and "model_name_or_path" not in code:
                (tmp_path / "job.yaml").write_text(f"model_name_or_path: m\ndataset_name: d\n{code}")
                load_job(tmp_path / "job.yaml")


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

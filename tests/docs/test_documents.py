"""What stands in the documents beside the commands that run: parts of job files, targets of make, links.

Commands that need several machines do not run: their words are parsed.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from documents import BLOCK, EXECUTED, PAGES, ROOT, blocks_of

from splitft.job import load_job

ALL_BLOCKS = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
ANY_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')


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
    for document in PAGES:
        text = document.read_text(encoding="utf-8")
        assert {language for language, _ in BLOCK.findall(text)} <= {"bash", "python", "yaml"}, document
        for target in re.findall(r"`?make ([a-z-]+)", text):
            assert target in targets or target not in ("demo", "test", "bench", "docs"), (document, target)


def test_pages_with_commands_are_among_those_that_run() -> None:
    with_commands = {
        str(page.relative_to(ROOT))
        for page in PAGES
        if {"bash", "python"} & {language for language, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}
    }
    assert with_commands <= set(EXECUTED), with_commands - set(EXECUTED)


def commands_of(text: str) -> list[str]:
    """`splitft ...` in blocks without a language: they are for several machines, and not run here."""
    plain = [code for language, code in ALL_BLOCKS.findall(text) if not language]
    joined = "\n".join(plain).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("splitft ")]


def test_commands_for_several_machines_are_of_the_command_line() -> None:
    """Their commands, options and arguments are parsed; nothing is executed."""
    import click
    from typer.main import get_command

    from splitft.launch.cli import app

    seen = 0
    for page in PAGES:
        for line in commands_of(page.read_text(encoding="utf-8")):
            words = shlex.split(line, comments=True)[1:]
            group: Any = get_command(app)
            context = click.Context(group)
            while isinstance(group, click.Group) or hasattr(group, "commands"):
                name, words = words[0], words[1:]
                assert name in group.commands, f"{page.name}: {line}"
                group = group.commands[name]
            try:
                group.make_context(name, [word for word in words if word != "..."], parent=context)
            except Exception as error:
                raise AssertionError(f"{page.name}: {line}: {error}") from error
            seen += 1
    assert seen >= 10


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them, and those that it states."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: Counter[str] = Counter()
    names = set(ANCHOR.findall(text))
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings; of other sites the form alone, since no test needs a network."""
    text = ANY_CODE.sub("", page.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"https?:|mailto:", target):
            assert re.match(r"https://[\w.-]+\.\w+(/|$)|mailto:", target), target
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {target}"


def test_every_page_is_in_the_sites_navigation() -> None:
    stated = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in stated] == []

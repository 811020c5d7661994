"""Files that other programs read: the citation, the workflow, the issue forms, the image's recipe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from documents import ROOT

FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
INSTRUCTIONS = {"ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}


def stated(key: str) -> str:
    """A value of pyproject.toml's [project]; Python 3.10 has no reader of that format."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(rf'^{key} = "([^"]+)"', text, re.MULTILINE)[1]  # type: ignore[index]


def loaded(path: Path | str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """(instruction, argument) of the Containerfile, continued lines joined, comments left out."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    """Fields that the citation file format 1.2.0 requires, and those that could grow old."""
    citation = loaded("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (stated("version"), stated("license"))
    assert "2604.26388" in citation["references"][0]["url"]
    assert all({"family-names", "given-names"} <= set(name) for name in citation["references"][0]["authors"])


def test_the_workflow_runs_what_everyone_runs() -> None:
    workflow = loaded(".github/workflows/ci.yml")
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert "bash .ci/run" in commands and workflow["permissions"] == {"contents": "read"}
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert all(command.split()[1] in targets for command in commands if command.startswith("make "))


def test_issue_forms_have_what_a_form_needs() -> None:
    forms = [path for path in FORMS if path.name != "config.yml"]
    assert len(forms) == 2
    for path in forms:
        form = loaded(path)
        assert {"name", "description", "body"} <= set(form), path
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in fields}) == len(fields), path
        assert all(field["attributes"]["label"] for field in fields), path


def test_the_image_is_built_of_files_that_are_here_and_runs_as_a_user() -> None:
    steps = instructions()
    assert steps[0][0] == "FROM" and {name for name, _ in steps[1:]} <= INSTRUCTIONS
    for name, argument in steps:
        if name == "COPY":
            assert all((ROOT / source).exists() for source in shlex.split(argument)[:-1]), argument
    base, minor = re.fullmatch(r"(python:3\.(\d+))-slim", steps[0][1]).groups()  # type: ignore[union-attr]
    assert int(minor) >= int(stated("requires-python").removeprefix(">=3.")), base
    names = [name for name, _ in steps]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")
    assert dict(steps)["ENTRYPOINT"] == '["splitft"]' and stated("splitft").startswith("splitft.launch")


def test_the_image_installs_as_the_package_test_does() -> None:
    """No builder runs here: its install is that of `tests/slow/test_package.py`, from the same files."""
    (install,) = [
        argument for name, argument in instructions() if name == "RUN" and "pip install" in argument
    ]
    words = shlex.split(install)
    assert words == ["python", "-m", "pip", "install", "--constraint", "constraints.txt", ".[demo]"]
    copied = {
        word for name, argument in instructions() if name == "COPY" for word in shlex.split(argument)[:-1]
    }
    package_test = (ROOT / "tests/slow/test_package.py").read_text(encoding="utf-8")
    assert copied == set(re.findall(r'"([^"]+)"', re.search(r"^SOURCES = .*$", package_test, re.M)[0]))  # type: ignore[index]

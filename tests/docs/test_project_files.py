"""Files that other programs read: the citation, the workflow, the issue forms, the image's recipe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import ROOT

from containerfile import instructions

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
INSTRUCTIONS = {"ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}


def stated(key: str) -> str:
    """A value of pyproject.toml's [project]; Python 3.10 has no reader of that format."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(rf'^{key} = "([^"]+)"', text, re.MULTILINE)[1]  # type: ignore[index]


def loaded(path: Path | str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    """Fields that the citation file format 1.2.0 requires, and those that could grow old."""
    citation = loaded("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (stated("version"), stated("license"))
    assert "2604.26388" in citation["references"][0]["url"]
    assert all({"family-names", "given-names"} <= set(name) for name in citation["references"][0]["authors"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_everyone_runs_and_may_only_read(path: Path) -> None:
    """Commands are targets of make, or the script of every other place; actions have a version."""
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 120 for job in workflow["jobs"].values())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    commands = [step["run"] for step in steps if "run" in step]
    assert all(command.split()[1] in targets for command in commands if command.startswith("make "))
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)


def test_what_every_change_and_every_week_must_pass() -> None:
    def commands(name: str) -> set[str]:
        jobs = loaded(f".github/workflows/{name}.yml")["jobs"].values()
        return {step["run"] for job in jobs for step in job["steps"] if "run" in step}

    assert {"bash .ci/run", "make docs", "make test-matrix ARGS=${{ matrix.leg }}"} <= commands("ci")
    legs = [
        leg["leg"]
        for leg in loaded(".github/workflows/ci.yml")["jobs"]["versions"]["strategy"]["matrix"]["include"]
    ]
    assert {"lowest", "3.10", "3.12", "3.13", "newest"} == set(legs)
    assert {"make audit", "make fuzz"} <= commands("security")
    starts = loaded(".github/workflows/security.yml")[True]  # `on:` is true in YAML 1.1
    assert {"schedule", "pull_request"} <= set(starts)


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
    """No builder runs here: it installs what `tests/slow/test_package.py` does, and two extras."""
    (install,) = [
        argument for name, argument in instructions() if name == "RUN" and "pip install" in argument
    ]
    words = shlex.split(install)
    wanted = "python -m pip install --constraint constraints.txt .[demo,health,metrics]"
    assert words == wanted.split()
    copied = {
        word for name, argument in instructions() if name == "COPY" for word in shlex.split(argument)[:-1]
    }
    package_test = (ROOT / "tests/slow/test_package.py").read_text(encoding="utf-8")
    assert copied == set(re.findall(r'"([^"]+)"', re.search(r"^SOURCES = .*$", package_test, re.M)[0]))  # type: ignore[index]

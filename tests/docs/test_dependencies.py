"""What is installed: `requirements.lock` is of today's pins, and every file in it has a hash."""

from __future__ import annotations

import re

from documents import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PIN = re.compile(r"([\w.-]+)==([\w.+!-]+)(?: ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def lines_of(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if line[:1] not in "#"]


def locked() -> dict[str, set[str]]:
    """{package: versions}; there are two where Pythons need different ones."""
    found: dict[str, set[str]] = {}
    for line in lines_of("requirements.lock"):
        if pin := PIN.fullmatch(line):
            found.setdefault(canonicalize_name(pin[1]), set()).add(pin[2])
    return found


def stated() -> list[Requirement]:
    """Dependencies of the core and of the extra `demo`; Python 3.10 has no reader of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    core = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]
    demo = re.search(r"^demo = \[(.*)\]", text, re.MULTILINE)[1]  # type: ignore[index]
    return [Requirement(one) for one in re.findall(r'"([^"]+)"', core + demo)]


def test_every_file_of_the_lock_has_a_hash_and_no_index_is_named() -> None:
    """A pin goes on into its hashes, the last of which ends it: nothing else stands there."""
    pinned = False
    for line in lines_of("requirements.lock"):
        assert HASH.fullmatch(line) if pinned else PIN.fullmatch(line), line
        pinned = line.endswith("\\")
    assert not pinned and len(locked()) > 60


def test_the_lock_has_all_that_the_package_asks_for_at_the_pinned_versions() -> None:
    """After a change of pyproject.toml or constraints.txt: `make lock`."""
    found = locked()
    for wanted in stated():
        versions = found.get(canonicalize_name(wanted.name), set())
        assert versions and all(wanted.specifier.contains(version) for version in versions), wanted
    pins = [Requirement(line) for line in lines_of("constraints.txt")]
    apart = {pin.name: found[name] for pin in pins if (name := canonicalize_name(pin.name)) in found
             and found[name] != {str(pin.specifier).removeprefix("==")}}  # fmt: skip
    assert not apart, apart
    # Each of the core is pinned somewhere: nothing of it changes between two installations.
    unpinned = {canonicalize_name(one.name) for one in stated()} - {canonicalize_name(p.name) for p in pins}
    assert not unpinned, unpinned


def test_tools_are_pinned_and_every_excuse_has_a_reason() -> None:
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines_of(".ci/tools.txt"))
    excuses = [
        line
        for path in (ROOT / "src").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "nosec" in line
    ]
    assert excuses and all(re.search(r"# nosec B\d{3} # \w+", line) for line in excuses), excuses

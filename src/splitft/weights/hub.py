"""Files of a model, from a folder or from a hub; of a hub only those that are asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from socket import gaierror
from typing import Literal

from huggingface_hub import constants, get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from splitft.errors import ModelError
from splitft.job.base_model import GIVEN_MODEL

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
_UNREACHED = (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError, TimeoutError, gaierror)
_OFFLINE_MODEL = "builtin:smollm2-135m needs no download"


def resolve_model(name: str | Path) -> Path | str:
    """Return where a model lives: its folder, or its hub id as it is.

    `name`: builtin:NAME, a folder, or a hub id, which is not looked up. Raises ModelError where a folder is
    meant and is not there, or is no model.
    """
    text = str(name)
    if text.startswith("builtin:"):
        from splitft.weights.builtin import builtin_model_path

        return builtin_model_path(text)
    if text == GIVEN_MODEL:
        raise ModelError(
            "the model was an object from Python without a name: save it (model.save_pretrained, "
            "tokenizer.save_pretrained) and name its folder, as model_name_or_path of a job or with --model"
        )
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} {no_model(locator(folder))}")
        return folder
    if folder.exists() or text.startswith((".", "~")) or folder.is_absolute() or text.count("/") > 1:
        raise ModelError(f"{text} is no folder: name a model folder or a hub id; {_OFFLINE_MODEL}")
    return text


def locator(source: Path | str, revision: str = "main") -> Callable[[str], Path | None]:
    """Return a function from a file's name to its path, or None where the model has no such file.

    Of a hub model a file is fetched when it is located, into the hub's own cache (HF_HOME, HF_ENDPOINT,
    HF_TOKEN and HF_HUB_OFFLINE hold). All files come from the commit of the first. The function raises
    ModelError where the hub refuses or cannot be reached.
    """
    if isinstance(source, Path):
        folder = source
        return lambda file: folder / file if (folder / file).is_file() else None
    commit = revision

    def fetch(file: str) -> Path | None:
        nonlocal commit
        try:
            with hub_or_cache(source, revision):
                path = Path(hf_hub_download(source, file, revision=commit))
        except (EntryNotFoundError, OSError, HFValidationError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return None
            if isinstance(error, _UNREACHED) and model_is_cached(source, revision):
                return None  # the cache holds the whole model, so the model has no such file
            raise ModelError(_explain(source, revision, error)) from error
        commit = path.parent.name
        return path

    return fetch


def no_model(locate: Callable[[str], Path | None]) -> str:
    """Say what a folder or a hub id without a config.json holds. locate: as `locator` returns."""
    if (adapter := locate("adapter_config.json")) is not None:
        try:
            base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (ValueError, AttributeError):
            base = None
        return (
            f"holds a PEFT adapter and no model: set model_name_or_path to its base ({base or 'a model'}), "
            "and adapter_name_or_path to the adapter"
        )
    if locate("model_index.json") is not None:
        return "is a diffusion pipeline and no language model: choose a causal LM"
    return "has no config.json: name the folder that save_pretrained wrote, or a hub id"


def model_is_cached(name: str, revision: str = "main") -> bool:
    """Whether the hub's cache holds this model whole: configuration, tokenizer and all weights."""

    def cached(file: str) -> Path | None:
        found = try_to_load_from_cache(name, file, revision=revision)
        return Path(found) if isinstance(found, str) and Path(found).is_file() else None

    try:
        if cached("config.json") is None or not any(map(cached, _TOKENIZERS)):
            return False
        if (index := cached(INDEX)) is None:
            return cached(SINGLE) is not None
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return all(cached(str(file)) for file in set(weight_map.values()))
    except (HFValidationError, OSError, ValueError, KeyError, AttributeError):
        return False


def _explain(name: str, revision: str, error: Exception) -> str:
    hub = constants.ENDPOINT
    if isinstance(error, GatedRepoError):
        return (
            f"model {name} is gated: accept its terms at {hub}/{name}, then log in with `hf auth login` "
            "or set HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"model {name}: there is no such folder, and {hub} has no such model, or it is private (log in "
            f"with `hf auth login` or set HF_TOKEN). Check the name; {_OFFLINE_MODEL}"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"model {name} has no revision {revision!r}: set model_revision to a branch, tag or commit of it"
        )
    if isinstance(error, HFValidationError):
        return f"model {name}: there is no such folder, and it is no hub id. Check the name; {_OFFLINE_MODEL}"
    if isinstance(error, _UNREACHED):
        return (
            f"model {name}: there is no such folder, and {hub} could not be reached, nor is the model in its "
            f"cache. Check the name and the connection (HF_HUB_OFFLINE, HF_ENDPOINT); {_OFFLINE_MODEL}"
        )
    return f"model {name} could not be fetched from {hub}: {error}"


Kind = Literal["model", "dataset"]
SECONDS = 5.0  # the hub's own client would try for half a minute and more, for every file


def hub_answers(name: str, revision: str = "main", kind: Kind = "model") -> bool:
    """Whether the hub gives an answer about this model or data set within SECONDS, be it a refusal.

    False with HF_HUB_OFFLINE, without a connection, behind a proxy that lets nothing through, or where the
    hub itself fails. A wrong name is an answer. HF_ENDPOINT and the proxy variables hold.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    file = "config.json" if kind == "model" else "README.md"
    try:
        address = hf_hub_url(name, file, revision=revision, repo_type=kind, endpoint=constants.ENDPOINT)
    except HFValidationError:  # no hub id: whoever uses the name will be told
        return True
    return _answers(address)


def hub_or_cache(name: str, revision: str = "main", kind: Kind = "model") -> AbstractContextManager[None]:
    """Inside, the hub's libraries read their cache alone, at once, if the hub does not answer."""
    return nullcontext() if hub_answers(name, revision, kind) else offline()


@contextmanager
def offline() -> Iterator[None]:
    """Inside, the hub's libraries read their cache alone, as with HF_HUB_OFFLINE=1."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_hubs_answer(status: int, error_code: str | None) -> bool:
    """Whether an HTTP status is the hub's (or a mirror's) word, not a proxy's and not a failure.

    error_code: the header X-Error-Code, which the hub sets where it refuses.
    """
    return status < 400 or status in (401, 404, 429) or (error_code is not None and status < 500)


@cache  # a process asks once
def _answers(address: str) -> bool:
    """Ask in a thread of its own: looking up a name can take longer than any time-out of a request."""
    found: list[bool] = []

    def ask() -> None:
        try:
            answer = get_session().head(address, timeout=SECONDS, follow_redirects=False)
        except Exception:  # no network has many faces, and the client's own classes changed between versions
            return
        found.append(is_hubs_answer(answer.status_code, answer.headers.get("X-Error-Code")))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS + 1)
    return any(found)

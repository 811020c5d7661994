"""Whether the model hub answers, decided in seconds, and working from its cache where it does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

from huggingface_hub import constants, get_session, hf_hub_url
from huggingface_hub.errors import HFValidationError

SECONDS = 5.0  # the hub's own client would try for half a minute and more, for every file

_known: dict[str, bool] = {}  # by address: a process asks once


def hub_answers(name: str, revision: str = "main", kind: Literal["model", "dataset"] = "model") -> bool:
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
    if address not in _known:
        _known[address] = _answers(address)
    return _known[address]


@contextmanager
def hub_or_cache(
    name: str, revision: str = "main", kind: Literal["model", "dataset"] = "model"
) -> Iterator[None]:
    """Inside, the hub's libraries read their cache alone, at once, if the hub does not answer."""
    with nullcontext() if hub_answers(name, revision, kind) else offline():
        yield


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

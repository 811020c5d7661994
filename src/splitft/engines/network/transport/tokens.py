"""Tokens: a secret for each client, of which the server keeps the hash alone.

A token has 256 random bits, so that a plain SHA-256 of it tells nothing (a password would need a slow hash).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from splitft.engines.network.transport.pem import check_name, read, write
from splitft.errors import JobError, OutputError

TOKENS, TOKEN = "tokens", "token"  # the server's file, and a client's
_LINE = re.compile(r"([a-z0-9][a-z0-9_-]{0,63}) sha256:([0-9a-f]{64})")
_NOBODY = hashlib.sha256(secrets.token_bytes()).hexdigest()  # what a name without a token is compared with


def hash_of(token: str) -> str:
    """Return the SHA-256 of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_tokens(path: Path) -> dict[str, frozenset[str]]:
    """Return {name: hashes}. A name may have two while one takes the other's place.

    Raises JobError where a line is none, or the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(
            f"--tokens {path} cannot be read: {getattr(error, 'strerror', error)}; `splitft certs token "
            "NAME` makes it"
        ) from None
    found: dict[str, frozenset[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        parsed = _LINE.fullmatch(line.strip())
        if parsed is None:
            raise JobError(
                f"--tokens {path}, line {number}: write NAME sha256:HASH, as `splitft certs token` does"
            )
        found[parsed[1]] = found.get(parsed[1], frozenset()) | {parsed[2]}
    return found


def make_token(folder: Path, name: str, *, again: bool = False) -> Path:
    """Make a client's token, and add its hash to the server's file; return the client's file.

    again: a new one in place of a former one.

    Raises JobError where the name is none, OutputError where it has a token already.
    """
    check_name(name)
    path, kept = folder / name / TOKEN, folder / TOKENS
    lines = read(kept).decode("utf-8", "replace").splitlines() if kept.exists() else []
    if not again and any(line.split(" ")[0] == name for line in lines):
        raise OutputError(f"{name} has a token already: --renew makes another, and the former ends")
    token = secrets.token_urlsafe(32)
    lines = [line for line in lines if line.split(" ")[0] != name] + [f"{name} sha256:{hash_of(token)}"]
    write(path, f"{token}\n".encode(), mode=0o600)
    write(kept, ("\n".join(lines) + "\n").encode(), mode=0o600)
    return path


class TokenFile:
    """The server's file of hashes, read again where it changes.

    problem: receives a line about a file that cannot be used; the former hashes stay. Raises JobError.
    """

    def __init__(self, path: Path, problem: Callable[[str], None]) -> None:
        self._path, self._problem = path, problem
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._hashes: Mapping[str, frozenset[str]] = read_tokens(path)

    def accepts(self, name: str, token: str) -> bool:
        """Whether a token is that of a name; the time does not tell how near a wrong one is."""
        given, right = hash_of(token), False
        for one in sorted(self._current().get(name, ())) or [_NOBODY]:
            right |= hmac.compare_digest(one, given)
        return right

    def without(self, names: Collection[str]) -> list[str]:
        """Return those of the names that have no token."""
        return [name for name in names if name not in self._current()]

    def _look(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return 0, 0, 0
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _current(self) -> Mapping[str, frozenset[str]]:
        with self._lock:
            if (stamp := self._look()) != self._stamp:
                self._stamp = stamp
                try:
                    self._hashes = read_tokens(self._path)
                except JobError as error:
                    self._problem(f"the tokens could not be read again, the former ones stay: {error}")
            return self._hashes

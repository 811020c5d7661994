"""Admission: which clients may come in, decided on the hello of a connection, and the log of refusals."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from splitft.common.files import append_line
from splitft.common.notices import Notice
from splitft.common.text import plain
from splitft.engines.network.control import PROTOCOL, SCHEMA, VERSION, Hello, Refused
from splitft.engines.network.transport.tokens import TokenFile
from splitft.errors import OutputError

AUDIT = "audit.jsonl"
MOST_PLACES, MOST_NAMES = 200, 200  # addresses of a name, and names that are no client's, told apart
MOST_KINDS = 5000  # of refusals
FIRST_SECONDS, LONGEST_SECONDS = 60.0, 86400.0  # between two lines of one kind
OTHERS = "others"

Key = tuple[str, str, str]  # address, name, reason


@dataclass
class Refusals:
    """Refusals of one kind. times: as in the log."""

    first: str
    last: str
    due: float  # when the next line is, by the clock that never goes back
    wait: float = FIRST_SECONDS
    count: int = 1
    logged: int = 1


@dataclass
class AuditLog:
    """Logs refusals in `audit.jsonl`: address, name, reason, how many, first and last time.

    The first of a kind is logged at once, later ones together, in growing intervals and at the end. No
    secrets, no text of a client. To be called in any thread.
    """

    folder: Path
    notice: Callable[[str], None]
    _kinds: dict[Key, Refusals] = field(default_factory=dict, init=False)
    _places: dict[str, set[str]] = field(default_factory=dict, init=False)  # by name
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)

    def __call__(self, address: str, reason: str, name: str = "", *, client: bool = False) -> None:
        """Log a refusal. client: the name is that of a client of the job."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._lock:
            key = self._key(address, reason, name, client)
            found = self._kinds.get(key)
            if found is None:
                found = self._kinds[key] = Refusals(when, when, time.monotonic() + FIRST_SECONDS)
                self._write(key, found)
                text = f"refused {key[1] or 'a connection'} from {key[0]}: {key[2]}"
                told = {"address": key[0], "name": key[1], "reason": key[2]}
                self.notice(Notice(text, "refused", "warning", **told))
            else:
                found.count, found.last = found.count + 1, when

    def _key(self, address: str, reason: str, name: str, client: bool) -> Key:
        """Return the kind of a refusal: the rest is one, so that no number of kinds fills disk or memory."""
        if not client and name not in self._places and len(self._places) >= MOST_NAMES:
            name = OTHERS
        places = self._places.setdefault(name, set())
        if address not in places and len(places) >= MOST_PLACES:
            address = OTHERS
        places.add(address)
        key = address, name, reason
        return key if key in self._kinds or len(self._kinds) < MOST_KINDS else (OTHERS, name, OTHERS)

    def total(self) -> int:
        """Return the number of refusals so far in this process."""
        with self._lock:
            return sum(found.count for found in self._kinds.values())

    def flush(self, *, due: bool = False) -> None:
        """Log what is not logged yet. due: only where it is time."""
        now = time.monotonic()
        with self._lock:
            for key, found in self._kinds.items():
                if found.count > found.logged and (not due or now >= found.due):
                    found.wait = min(4 * found.wait, LONGEST_SECONDS)
                    found.due = now + found.wait
                    self._write(key, found)

    def _write(self, key: Key, found: Refusals) -> None:
        address, name, reason = key
        line: dict[str, str | int] = {"time": found.last, "address": address, "name": name, "refused": reason}
        if found.count > 1:
            line |= {"count": found.count, "first": found.first}
        found.logged = found.count
        with suppress(OutputError):  # a full disk ends the run by what it has to write itself
            append_line(self.folder / AUDIT, json.dumps(line))


@dataclass(frozen=True)
class Admission:
    """The clients of a job, and their secrets."""

    names: tuple[str, ...]
    tokens: Mapping[str, str]  # the secret of each client, by which it is known; empty: none is asked for
    by_certificate: bool  # a client's name must be its certificate's
    audit: AuditLog  # of refusals
    hashes: TokenFile | None = None  # of each client's own token, in place of `tokens`

    def admit(self, hello: Hello, certified: str, address: str) -> Refused | None:
        """Return the refusal of a client, None where it may come in. certified: the certificate's name."""
        token = self.tokens.get(hello.name, "")
        if (hello.protocol, hello.schema) != (PROTOCOL, SCHEMA):
            reason = (
                f"it runs splitft {plain(hello.version, 40) or 'of an earlier version'} (messages "
                f"{hello.protocol} {plain(hello.schema, 12)}), this server {VERSION} (messages {PROTOCOL} "
                f"{SCHEMA}): both need the same version"
            )
        elif self.by_certificate and certified != hello.name:
            reason = "its certificate is not that of this name"
        elif not self.keeps_token(hello) or (
            self.tokens and not (token and hmac.compare_digest(token.encode(), hello.token.encode()))
        ):
            reason = "its token is wrong, or no client of this job is called so"
        elif hello.name not in self.names:
            reason = "no client of this job is called so"
        else:
            return None
        return self.refuse(reason, certified or hello.name, address)

    def keeps_token(self, hello: Hello) -> bool:
        """Whether a client's token counts, by the file of hashes as it is now; without one it does."""
        return self.hashes is None or self.hashes.accepts(hello.name, hello.token)

    def refuse(self, reason: str, name: str, address: str) -> Refused:
        """Log and return a refusal."""
        client = name in self.names
        name = name if client else name[:64].encode("unicode_escape").decode()
        self.audit(address, reason, name, client=client)
        return Refused(reason, again=False)

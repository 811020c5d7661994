"""Admission: which clients may come in, decided on the hello of a connection."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from splitft.common.files import append_line
from splitft.engines.network.control import PROTOCOL, Hello, Refused
from splitft.engines.network.transport.listener import Identity

AUDIT = "audit.jsonl"
MOST_LINES = 10_000  # of one server process, so that refusals do not fill the disk


class AuditLog:
    """Logs refusals in `audit.jsonl`: time, address, name and reason; no secrets, no text of a client."""

    def __init__(self, folder: Path, notice: Callable[[str], None]) -> None:
        self._path = folder / AUDIT
        self._notice = notice
        self._lines = 0

    def __call__(self, address: str, reason: str, name: str = "") -> None:
        self._lines += 1
        if self._lines > MOST_LINES:
            return
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"time": when, "address": address, "name": name, "refused": reason}
        append_line(self._path, json.dumps(line))
        self._notice(f"refused {name or 'a connection'} from {address}: {reason}")


@dataclass(frozen=True)
class Admission:
    """The clients of a job, and their secrets.

    tokens: the secret of each client, by which it is known; empty: none is asked for. by_certificate: a
    client's name must be its certificate's. audit: logs refusals.
    """

    names: tuple[str, ...]
    tokens: Mapping[str, str]
    by_certificate: bool
    audit: AuditLog

    def admit(self, hello: Hello, identity: Identity) -> Refused | None:
        """Return the refusal of a client, None where it may come in."""
        reason = self._problem(hello, identity)
        if reason is None:
            return None
        self.audit(identity.peer, reason, hello.name[:64].encode("unicode_escape").decode())
        return Refused(reason, again=False)

    def _problem(self, hello: Hello, identity: Identity) -> str | None:
        if hello.protocol != PROTOCOL:
            return f"it speaks version {hello.protocol} of the protocol, this server {PROTOCOL}"
        if self.by_certificate and identity.name != hello.name:
            return "its certificate is not that of this name"
        if self.tokens and not self._shows_token(hello):
            return "its token is wrong"
        if hello.name not in self.names:
            return "no client of this job is called so"
        return None

    def _shows_token(self, hello: Hello) -> bool:
        wanted = self.tokens.get(hello.name, "")
        return bool(wanted) and hmac.compare_digest(wanted.encode(), hello.token.encode())

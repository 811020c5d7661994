"""Admission: which clients may come in, decided on the hello of a connection."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from splitft.common.files import append_line
from splitft.common.text import plain
from splitft.engines.network.control import PROTOCOL, SCHEMA, VERSION, Hello, Refused

AUDIT = "audit.jsonl"
MOST_LINES = 10_000  # of one server process, so that refusals do not fill the disk


@dataclass
class AuditLog:
    """Logs refusals in `audit.jsonl`: time, address, name and reason; no secrets, no text of a client."""

    folder: Path
    notice: Callable[[str], None]
    _lines: int = field(default=0, init=False)

    def __call__(self, address: str, reason: str, name: str = "") -> None:
        self._lines += 1
        if self._lines > MOST_LINES:
            return
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"time": when, "address": address, "name": name, "refused": reason}
        append_line(self.folder / AUDIT, json.dumps(line))
        self.notice(f"refused {name or 'a connection'} from {address}: {reason}")


@dataclass(frozen=True)
class Admission:
    """The clients of a job, and their secrets."""

    names: tuple[str, ...]
    tokens: Mapping[str, str]  # the secret of each client, by which it is known; empty: none is asked for
    by_certificate: bool  # a client's name must be its certificate's
    audit: AuditLog  # of refusals

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
        elif self.tokens and not (token and hmac.compare_digest(token.encode(), hello.token.encode())):
            reason = "its token is wrong, or no client of this job is called so"
        elif hello.name not in self.names:
            reason = "no client of this job is called so"
        else:
            return None
        self.audit(address, reason, hello.name[:64].encode("unicode_escape").decode())
        return Refused(reason, again=False)

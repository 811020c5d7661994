"""Listing of certificates: names, ends, and which are revoked, replaced or end soon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cryptography.x509.oid import NameOID

from splitft.engines.network.transport.dates import SOON_DAYS
from splitft.engines.network.transport.issuing import issued, revoked_serials
from splitft.engines.network.transport.pem import (
    CA,
    CA_KEY,
    CLIENT,
    SERVER,
    certificates_in,
    hosts_of,
)
from splitft.errors import OutputError


@dataclass(frozen=True)
class Listed:
    """One certificate. serial: hexadecimal. key: where its private key lies, as far as the folder tells."""

    name: str
    file: str
    ends: datetime
    standing: str
    serial: str
    key: str
    hosts: tuple[str, ...] = ()


def list_certificates(folder: Path) -> list[Listed]:
    """Return the certificates of an authority's folder, or of a party's, newest last for each name.

    Raises OutputError where there is none, NetworkError where a file cannot be read.
    """
    found = _of_authority(folder) if (folder / CA_KEY).exists() else _of_parties(folder)
    if not found:
        raise OutputError(f"{folder} holds no certificates: name an authority's folder, or a party's")
    return found


def _of_authority(folder: Path) -> list[Listed]:
    revoked, own = revoked_serials(folder), certificates_in(folder / CA)[0]
    rows = [
        Listed("(authority)", CA, own.not_valid_after_utc, _standing(own.not_valid_after_utc), "-", "here")
    ]
    for serial, line in sorted(issued(folder).items(), key=lambda item: (item[1]["name"], item[1]["ends"])):
        path = folder / line["name"] / line["file"]
        now = certificates_in(path)[0] if path.exists() else None
        current = now is not None and now.serial_number == serial
        ends = datetime.strptime(line["ends"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        standing = _standing(ends)
        if serial in revoked:
            standing = "revoked"
        elif now is not None and not current and standing != "ended":
            standing = f"replaced; {standing}"
        key = ("here" if path.with_suffix(".key").exists() else "at the party") if current else "-"
        hosts = tuple(hosts_of(now)) if current and now is not None else ()
        rows.append(Listed(line["name"], line["file"], ends, standing, line["serial"], key, hosts))
    return rows


def _of_parties(folder: Path) -> list[Listed]:
    rows = []
    for place in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
        for file in (CLIENT, SERVER):
            if (path := place / file).exists():
                one = certificates_in(path)[0]
                common = one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
                name = ", ".join(str(named.value) for named in common) or one.subject.rfc4514_string()
                key = "here" if path.with_suffix(".key").exists() else "not here"
                ends, serial = one.not_valid_after_utc, f"{one.serial_number:x}"
                rows.append(Listed(name, file, ends, _standing(ends), serial, key, tuple(hosts_of(one))))
    return rows


def _standing(ends: datetime, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> str:
    left = ends - now()
    if left.total_seconds() < 0:
        return "ended"
    return f"ends in {left.days} days" if left.days < SOON_DAYS else "valid"

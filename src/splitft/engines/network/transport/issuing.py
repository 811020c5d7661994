"""Issuing: what an authority signs, and its record of that."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splitft.common.files import append_line
from splitft.engines.network.transport.pem import (
    CA,
    CA_DAYS,
    CA_KEY,
    CLIENT,
    CRL,
    DAYS,
    HERE,
    HOST,
    ISSUED,
    SERVER,
    PrivateKey,
    certificates_in,
    check_dates,
    read,
    write,
    write_key,
)
from splitft.errors import JobError, NetworkError


def issue(
    folder: Path,
    name: str,
    path: Path,
    hosts: Sequence[str],
    *,
    days: float = DAYS,
    public_key: PublicKeyTypes | None = None,
) -> x509.Certificate:
    """Write a certificate of a party, and its key, and note it among those that were signed.

    hosts: of one that listens; none: of a client.
    public_key: of a party that keeps its key: the certificate is then written alone.

    Raises NetworkError where the authority cannot sign, OutputError.
    """
    authority_key, authority = read_authority(folder)
    key = None if public_key else ec.generate_private_key(ec.SECP256R1())
    own = key.public_key() if key else public_key
    assert own is not None
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    names = [general_name(host) for host in hosts] or [x509.UniformResourceIdentifier(f"splitft:{name}")]
    builder = unsigned(subject, authority.subject, own, days, authority)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(key_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(issuer, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = builder.sign(authority_key, hashes.SHA256())
    former = certificates_in(path)[:1] if path.exists() else []  # earlier versions wrote no line about it
    for one in (*former, made):
        append_line(folder / ISSUED, json.dumps(_line(name, path, one)))
    if key is None:
        path.with_suffix(".key").unlink(missing_ok=True)  # a former key that the party no longer uses
    else:
        write_key(path.with_suffix(".key"), key)
    write(path, made.public_bytes(serialization.Encoding.PEM))
    return made


def issued(folder: Path) -> dict[int, dict[str, str]]:
    """Return {serial number: {name, file, ends}} of all certificates that an authority has signed.

    Raises OutputError where the folder is none of an authority, NetworkError where a file is damaged.
    """
    read(folder / CA_KEY)
    found: dict[int, dict[str, str]] = {}
    if (folder / ISSUED).exists():
        try:
            lines = [json.loads(line) for line in read(folder / ISSUED).decode().splitlines()]
            found = {int(line["serial"], 16): line for line in lines}
        except (ValueError, KeyError, TypeError):
            raise NetworkError(f"{folder / ISSUED} is damaged: restore it from a backup") from None
    for path in sorted((*folder.glob(f"*/{CLIENT}"), *folder.glob(f"*/{SERVER}"))):  # of earlier versions
        one = certificates_in(path)[0]
        found.setdefault(one.serial_number, _line(path.parent.name, path, one))
    return found


def revoked_serials(folder: Path) -> set[int]:
    """Return the serial numbers that an authority has revoked. Raises NetworkError."""
    try:
        return {entry.serial_number for entry in x509.load_pem_x509_crl(read(folder / CRL))}
    except ValueError as error:
        raise NetworkError(f"{folder / CRL} is no list of revoked certificates: {error}") from None


def given_hosts(hosts: Sequence[str]) -> list[str]:
    """Return the names and addresses of a party that listens. Raises JobError where one is none."""
    for host in hosts:
        if not HOST.fullmatch(host) and not _is_address(host):
            raise JobError(
                f"{host!r} is no host: give names or addresses without ports, such as server.example.org"
            )
    return list(dict.fromkeys((*HERE, *hosts)))


def key_usage(*, signs: bool) -> x509.KeyUsage:
    """Return the use of a key. signs: certificates and lists of revoked ones."""
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKeyTypes,
    days: float,
    authority: x509.Certificate | None = None,
) -> x509.CertificateBuilder:
    """Return a certificate that is not signed yet; it ends with its authority at the latest."""
    now = datetime.now(timezone.utc)
    ends = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - timedelta(hours=1))  # clocks differ
        .not_valid_after(min(ends, authority.not_valid_after_utc) if authority else ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)  # type: ignore[arg-type]
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def general_name(host: str) -> x509.GeneralName:
    """Return a name or an address as certificates hold it."""
    return x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)


def write_revoked(folder: Path, serials: Sequence[int]) -> None:
    key, authority = read_authority(folder)
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - timedelta(hours=1))
        .next_update(now + timedelta(days=CA_DAYS))
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    write(folder / CRL, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def read_authority(folder: Path) -> tuple[PrivateKey, x509.Certificate]:
    """Return an authority's key and certificate. Raises NetworkError where they cannot sign now."""
    authority = certificates_in(folder / CA)[0]
    try:
        key = serialization.load_pem_private_key(read(folder / CA_KEY), None)
    except (ValueError, TypeError) as error:
        raise NetworkError(f"{folder / CA_KEY} is no key of an authority: {error}") from None
    if not isinstance(key, PrivateKey) or key.public_key() != authority.public_key():
        raise NetworkError(f"{folder / CA_KEY} is not the key of {folder / CA}")
    check_dates(folder / CA, authority, "`splitft certs init` makes another authority in another folder")
    return key, authority


def _line(name: str, path: Path, certificate: x509.Certificate) -> dict[str, str]:
    ends = certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"name": name, "file": path.name, "serial": f"{certificate.serial_number:x}", "ends": ends}

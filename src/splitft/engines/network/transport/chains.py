"""Chains of certificates as clients show them to each other: from a client's up to an authority it trusts.

A chain travels as DER, one certificate after another, the client's own first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

MOST_LINKS = 6  # certificates of a chain: of the client, and of authorities between it and the last one
_OLD_HASHES = (hashes.MD5, hashes.SHA1)
_KNOWN = {
    ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME, ExtensionOID.CERTIFICATE_POLICIES,
}  # fmt: skip


def written(chain: Sequence[x509.Certificate]) -> bytes:
    """Return a chain as it travels."""
    return b"".join(one.public_bytes(serialization.Encoding.DER) for one in chain)


def read_chain(content: bytes) -> list[x509.Certificate]:
    """Return the certificates of a chain. Raises ValueError where it is none, or longer than MOST_LINKS."""
    found: list[x509.Certificate] = []
    while content or not found:
        size = _der_size(content)
        if size > len(content) or len(found) == MOST_LINKS:
            raise ValueError("no chain of certificates")
        found.append(x509.load_der_x509_certificate(content[:size]))
        content = content[size:]
    return found


def check_chain(
    chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], now: datetime
) -> None:
    """Raise ValueError where a chain is not valid now, is of no client, or leads to none of the authorities.

    Its certificates but the first may stand in any order, and need not all be used.
    """
    own = chain[0]
    if not _valid(own, now):
        raise ValueError("it has expired, or is not valid yet")
    if not _known(own) or not _for_clients(own):
        raise ValueError("it is another party's")
    if not _leads(own, chain[1:], authorities, now, 0):
        raise ValueError("it is of another authority")


def _leads(
    read: x509.Certificate,
    between: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    now: datetime,
    below: int,
) -> bool:
    """Whether an authority has issued a certificate, itself or through others of the chain.

    below: certificates of authorities that stand between this one and the client's.
    """
    if any(_may_issue(one, below) and _issued(read, one) for one in authorities):
        return True
    for number, one in enumerate(between):
        others = [*between[:number], *between[number + 1 :]]
        fits = _valid(one, now) and _known(one) and _may_issue(one, below)
        if fits and _issued(read, one) and _leads(one, others, authorities, now, below + 1):
            return True
    return False


def _issued(read: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether a certificate bears an issuer's signature, and its name."""
    try:
        if read.issuer != issuer.subject or isinstance(read.signature_hash_algorithm, _OLD_HASHES):
            return False
        read.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may_issue(one: x509.Certificate, below: int) -> bool:
    """Whether a certificate is an authority's, with room for so many others below it."""
    found = _extension(one, x509.BasicConstraints)
    usage = _extension(one, x509.KeyUsage)
    if found is None or not found.ca or (usage is not None and not usage.key_cert_sign):
        return False
    return found.path_length is None or found.path_length >= below


def _for_clients(one: x509.Certificate) -> bool:
    """Whether a certificate may sign as a client: where it names uses, this must be among them."""
    usage, uses = _extension(one, x509.KeyUsage), _extension(one, x509.ExtendedKeyUsage)
    if usage is not None and not usage.digital_signature:
        return False
    return uses is None or ExtendedKeyUsageOID.CLIENT_AUTH in uses


def _known(one: x509.Certificate) -> bool:
    """Whether nothing in a certificate must be obeyed that is not known here."""
    return all(not extension.critical or extension.oid in _KNOWN for extension in one.extensions)


def _valid(one: x509.Certificate, now: datetime) -> bool:
    return one.not_valid_before_utc <= now <= one.not_valid_after_utc


def _extension(one: x509.Certificate, kind: type[x509.ExtensionType]) -> Any:
    try:
        return one.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _der_size(content: bytes) -> int:
    """Return the bytes of the DER sequence at the beginning. Raises ValueError where there is none."""
    if len(content) < 2 or content[0] != 0x30:
        raise ValueError("no certificate")
    if content[1] < 0x80:
        return 2 + content[1]
    count = content[1] & 0x7F
    if not 1 <= count <= 3:
        raise ValueError("no certificate")
    return 2 + count + int.from_bytes(content[2 : 2 + count], "big")

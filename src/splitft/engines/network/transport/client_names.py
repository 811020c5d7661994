"""Names of clients in certificates of other authorities, which know nothing of a job's names."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from splitft.engines.network.transport.pem import NAME
from splitft.errors import NetworkError
from splitft.job.yaml import parse_yaml

CLIENT_NAMES = "names.yaml"  # in the server's folder
KINDS = ("CN", "DNS", "URI", "EMAIL")


def identities(certificate: x509.Certificate) -> frozenset[str]:
    """Return the names in a certificate: `CN:…` if it has one, and `DNS:…`, `URI:…`, `EMAIL:…` of its SAN."""
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    found = {f"CN:{common[0].value!s}"} if len(common) == 1 else set()
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset(found)
    kinds = {x509.DNSName: "DNS", x509.UniformResourceIdentifier: "URI", x509.RFC822Name: "EMAIL"}
    return frozenset(found | {f"{kinds[type(one)]}:{one.value}" for one in names if type(one) in kinds})


def read_client_names(path: Path) -> dict[str, str] | None:
    """Return {name in a certificate: client}; None where there is no such file.

    Each client has one name in its certificate, or a list of them. Raises NetworkError where the file cannot
    be used.
    """
    if not path.exists():
        return None
    try:
        read, problems = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NetworkError(f"{path} cannot be read: {error}") from None
    if problems or not isinstance(read, dict):
        raise NetworkError(f"{path}: {problems[0] if problems else 'write CLIENT: CN:NAME, a line for each'}")
    found: dict[str, str] = {}
    for client, given in read.items():
        for one in given if isinstance(given, list) else [given]:
            kind, _, rest = str(one).partition(":")
            if not NAME.fullmatch(client) or kind not in KINDS or not rest:
                raise NetworkError(
                    f"{path}: {client}: {one}: write CLIENT: KIND:NAME, where KIND is {', '.join(KINDS)}"
                )
            if found.setdefault(str(one), client) != client:
                raise NetworkError(f"{path}: {one} is given to {found[str(one)]} and to {client}")
    return found

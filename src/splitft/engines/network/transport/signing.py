"""Signatures of a client with the key of its certificate, which other clients check against the authority.

A server passes on what clients state to each other, and holds no key that signs in a client's name. Clients
have no list of revoked certificates.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from splitft.engines.network.transport.certs import CA, CLIENT, CLIENT_KEY
from splitft.errors import NetworkError

MOST_CERTIFICATE_BYTES, MOST_SIGNATURE_BYTES = 1 << 13, 1 << 10
_SHA256 = ec.ECDSA(hashes.SHA256())


class CertificateSignatures:
    """The signatures of one client. folder: of its certificate. Raises NetworkError where a file is none."""

    def __init__(self, folder: Path) -> None:
        try:
            own = x509.load_pem_x509_certificate((folder / CLIENT).read_bytes())
            self._authorities = x509.load_pem_x509_certificates((folder / CA).read_bytes())
            key = serialization.load_pem_private_key((folder / CLIENT_KEY).read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise NetworkError(
                f"the certificate in {folder} cannot sign for secure aggregation: {error}"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise NetworkError(
                f"{folder / CLIENT_KEY} is no key of an elliptic curve, with which secure aggregation signs: "
                "`splitft certs add NAME` makes one"
            )
        self._key = key
        self.certificate = own.public_bytes(serialization.Encoding.DER)

    def sign(self, content: bytes) -> bytes:
        """Return the client's signature."""
        return self._key.sign(content, _SHA256)

    def check(self, name: str, certificate: bytes, signature: bytes, content: bytes) -> None:
        """Raise ValueError where a signature is not that of the client of this name, by the authority."""
        try:
            read = x509.load_der_x509_certificate(certificate)
            self._check_certificate(name, read)
            key = read.public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise ValueError("a key that is of no elliptic curve")
            key.verify(signature, content, _SHA256)
        except InvalidSignature:
            raise ValueError(f"the signature of {name} is not that of its certificate") from None
        except (ValueError, TypeError, x509.ExtensionNotFound) as error:
            raise ValueError(f"the certificate of {name} does not count: {error}") from None

    def _check_certificate(self, name: str, read: x509.Certificate) -> None:
        """Raise ValueError or InvalidSignature where a certificate is not that of a client of this name."""
        common = [str(one.value) for one in read.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        usage = read.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        now = datetime.now(timezone.utc)
        if common != [name] or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
            raise ValueError("it is another party's")
        if not read.not_valid_before_utc <= now <= read.not_valid_after_utc:
            raise ValueError("it has expired, or is not valid yet")
        issuers = [one for one in self._authorities if one.subject == read.issuer]
        for issuer in issuers:
            try:
                read.verify_directly_issued_by(issuer)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return
        raise ValueError("it is of another authority")

"""Signatures of a client with the key of its certificate, which other clients check against the authority.

A server passes on what clients state to each other, and holds no key that signs in a client's name. Keys are
those that TLS takes here: of an elliptic curve (ECDSA), or RSA (PSS, salts as long as the hash); SHA-256.
Clients have no list of revoked certificates.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from splitft.engines.network.transport.certs import CA, CLIENT, CLIENT_KEY
from splitft.engines.network.transport.chains import MOST_LINKS, check_chain, read_chain, written
from splitft.engines.network.transport.client_names import CLIENT_NAMES, identities, read_client_names
from splitft.engines.network.transport.pem import certificates_in
from splitft.engines.network.transport.requests import LEAST_RSA_BITS
from splitft.errors import NetworkError, OutputError

MOST_CERTIFICATE_BYTES, MOST_SIGNATURE_BYTES = 1 << 13, 1 << 10  # of a chain; of a key of 8192 bits
_MALFORMED = x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion
_SHA256 = hashes.SHA256()
_PSS = padding.PSS(padding.MGF1(_SHA256), padding.PSS.DIGEST_LENGTH)


class CertificateSignatures:
    """The signatures of one client.

    folder: of its certificate, with the authorities of the others' (`ca.pem`), and `names.yaml` where their
        certificates have other names than the job. Raises NetworkError where a file is none.
    """

    def __init__(self, folder: Path) -> None:
        try:
            chain = certificates_in(folder / CLIENT)
            self._authorities = certificates_in(folder / CA)
            key: Any = serialization.load_pem_private_key((folder / CLIENT_KEY).read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm, OutputError, NetworkError) as error:
            raise NetworkError(
                f"the certificate in {folder} cannot sign for secure aggregation: {error}"
            ) from None
        self._names: Mapping[str, str] | None = read_client_names(folder / CLIENT_NAMES)
        if not _usable(key.public_key()):
            raise NetworkError(
                f"{folder / CLIENT_KEY} cannot sign for secure aggregation: a key must be EC, or RSA of "
                f"{LEAST_RSA_BITS} to {8 * MOST_SIGNATURE_BYTES} bits"
            )
        self._key = key
        self.certificate = written(chain)
        if len(chain) > MOST_LINKS or len(self.certificate) > MOST_CERTIFICATE_BYTES:
            raise NetworkError(
                f"{folder / CLIENT} is too long for secure aggregation: {MOST_LINKS} certificates of "
                f"{MOST_CERTIFICATE_BYTES} bytes together are the most; leave the root out"
            )

    def sign(self, content: bytes) -> bytes:
        """Return the client's signature."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(content, _PSS, _SHA256)
        signature: bytes = self._key.sign(content, ec.ECDSA(_SHA256))
        return signature

    def check(self, name: str, certificate: bytes, signature: bytes, content: bytes) -> None:
        """Raise ValueError where a signature is not that of the client of this name, by the authority.

        certificate: its chain, see `chains`.
        """
        try:
            chain = read_chain(certificate)
            if not self._is_of(name, chain[0]):
                raise ValueError("it is another party's")
            check_chain(chain, self._authorities, datetime.now(timezone.utc))
            _verify(chain[0].public_key(), signature, content)
        except InvalidSignature:
            raise ValueError(f"the signature of {name} is not that of its certificate") from None
        except (ValueError, TypeError, UnsupportedAlgorithm, *_MALFORMED) as error:
            raise ValueError(f"the certificate of {name} does not count: {error}") from None

    def _is_of(self, name: str, read: x509.Certificate) -> bool:
        """Whether a certificate is that of a client of the job, by its common name or by `names.yaml`."""
        if self._names is None:
            return f"CN:{name}" in identities(read)
        return any(self._names.get(one) == name for one in identities(read))


def _usable(key: Any) -> bool:
    """Whether a public key is of a kind that signs here."""
    if isinstance(key, rsa.RSAPublicKey):
        return LEAST_RSA_BITS <= key.key_size <= 8 * MOST_SIGNATURE_BYTES
    return isinstance(key, ec.EllipticCurvePublicKey)


def _verify(key: Any, signature: bytes, content: bytes) -> None:
    """Raise InvalidSignature where a signature is not that of a key, ValueError where no such key signs."""
    if not _usable(key):
        raise ValueError("its key is neither EC nor RSA of enough bits")
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, content, _PSS, _SHA256)
    else:
        key.verify(signature, content, ec.ECDSA(_SHA256))

"""What a party shows and asks for when it dials another. (ours)"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from splitft.engines.network.certs import CA, CLIENT, CLIENT_KEY
from splitft.errors import JobError, NetworkError


def channel_credentials(server: str, certs: Path | None, insecure: bool, authority: bytes = b"") -> Any:
    """Return what a client shows and asks for; None: no TLS, on this machine or with `insecure`.

    authority: PEM of the one that the server's certificate must be of, where clients need none. Without
    both it is TLS as in a browser: for a server behind a proxy. Raises JobError on an address that is none,
    NetworkError where a certificate is missing.
    """
    import grpc

    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise JobError(f"--server {server}: write HOST:PORT")
    if certs is not None:
        try:
            root, key, own = ((certs / name).read_bytes() for name in (CA, CLIENT_KEY, CLIENT))
        except OSError as error:
            raise NetworkError(
                f"cannot read {error.filename}: {error.strerror}; `splitft certs add NAME` makes the folder"
            ) from None
        return grpc.ssl_channel_credentials(root, key, own)
    if authority:
        return grpc.ssl_channel_credentials(authority)
    return None if insecure or is_loopback(host) else grpc.ssl_channel_credentials()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"

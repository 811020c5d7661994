"""No answer: what gRPC says of a connection that was not made, in words for people."""

from __future__ import annotations

import re

from splitft.engines.network.transport.certs import AGGREGATOR_NAME

OTHER_HOST = "its certificate is not for {host}: dial a name that `splitft certs init` was given"
OTHER_ROLE = "it shows no certificate of an aggregator: `splitft certs aggregator` makes it a folder"
# What gRPC's text holds, and what is then said of the server. Another try is of no use.
FINAL = (
    ("Hostname Verification Check failed", OTHER_HOST),
    ("is not in peer certificate", OTHER_HOST),
    ("certificate has expired", "its certificate has expired, by the clock of this machine"),
    ("certificate is not yet valid", "its certificate is not valid yet, by the clock of this machine"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is of an authority that this client does not trust"),
    ("WRONG_VERSION_NUMBER", "it speaks no TLS"),
)
# A code of HTTP in gRPC's text; another try may do.
CODES = (
    (
        re.compile(r"HTTP proxy returned response code (\d+)"),
        "the proxy that https_proxy names refuses the way, with HTTP {code}{hint}",
    ),
    (
        re.compile(r"Received http2 header with status: (\d+)"),
        "a proxy or web server answers there with HTTP {code}, and not the server of the run",
    ),
)
HINTS = {"407": ": it asks for http://USER:PASSWORD@HOST:PORT"}
NO_ADDRESS = "this machine finds no address of {host}: check the name, and the way to a name server"
NO_SERVER = "a proxy answers there, and reaches no server of the run behind it"
OTHER_PATH = "a proxy or server answers there that does not know SplitFT's path"
# What the text holds in any case, of gRPC, of Envoy or of another server; another try may do.
OTHERS = (
    ("errors resolving", NO_ADDRESS),
    ("dns resolution failed", NO_ADDRESS),
    ("address lookup failed", NO_ADDRESS),
    ("upstream connect error", NO_SERVER),
    ("no healthy upstream", NO_SERVER),
    ("unimplemented", OTHER_PATH),
    ("method not found", OTHER_PATH),
)
CLOSED = (
    "it hung up at the handshake: it asks for TLS, or does not accept this client's certificate, which is of "
    "another authority or has expired"
)


def explain(details: str, host: str) -> tuple[str, bool]:
    """Return why there is no connection, and whether another try is of no use.

    details: gRPC's text, or the name of its code. The reason is empty where nothing listens, or no packet
    comes back.
    """
    for words, reason in FINAL:
        if words in details:
            other_role = reason is OTHER_HOST and host == AGGREGATOR_NAME  # which is no address to dial
            return (OTHER_ROLE if other_role else reason).format(host=host), True
    for pattern, reason in CODES:
        if found := pattern.search(details):
            return reason.format(code=found[1], hint=HINTS.get(found[1], "")), False
    for words, reason in OTHERS:
        if words in details.lower():
            return reason.format(host=host), False
    if "handshake failed" in details:
        return f"the TLS handshake failed: {' '.join(details.split())[:200]}", False
    return (CLOSED if "Socket closed" in details else ""), False

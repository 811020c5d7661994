"""The ticket: the content of the one Message to a client, with the certificate of its server."""

from __future__ import annotations

import socket
import ssl
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from flwr.app import ConfigRecord, RecordDict

from splitft.engines.network.transport.certs import CA, CA_KEY, create_authority
from splitft.errors import NetworkError

RECORD = "session"
CHECK_SECONDS = 10.0
MAX_CHARACTERS = 1 << 14  # of one field


@dataclass(frozen=True)
class Ticket:
    """A client's way to its server."""

    name: str  # of the client
    endpoint: str  # HOST:PORT of the server
    authority: str  # PEM of the authority that signed the server's certificate, and nothing else
    token: str = field(repr=False)  # the client's secret

    def content(self) -> RecordDict:
        """Return it as the content of a Message."""
        return RecordDict({RECORD: ConfigRecord(asdict(self))})

    @classmethod
    def read(cls, content: RecordDict) -> Ticket:
        """Return the ticket of a Message. Raises NetworkError where there is none."""
        record = content.get(RECORD)
        values = dict(record) if isinstance(record, ConfigRecord) else {}
        names = [each.name for each in fields(cls)]
        texts = [text for name in names if isinstance(text := values.get(name), str) and text]
        if set(values) != set(names) or len(texts) != len(names) or max(map(len, texts)) > MAX_CHARACTERS:
            raise NetworkError(
                "the Flower message is no invitation to a session: is the server of this version?"
            )
        return cls(*texts)


def make_authority(folder: Path, host: str) -> str:
    """Make a server's certificate for one run; return its authority as PEM, without the key."""
    create_authority(folder, [host])
    (folder / CA_KEY).unlink()
    return (folder / CA).read_text(encoding="utf-8")


def check_pin(ticket: Ticket) -> None:
    """Raise NetworkError where another server than the ticket's answers.

    Where none answers, the connection itself is tried again and again, and checks the certificate, too.
    """
    host, _, port = ticket.endpoint.rpartition(":")
    try:
        context = ssl.create_default_context(cadata=ticket.authority)
    except (ssl.SSLError, ValueError):
        raise NetworkError("the Flower message carries no certificate that can be read") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), CHECK_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=host.strip("[]")),
        ):
            pass
    except ssl.SSLCertVerificationError as error:
        raise NetworkError(
            f"the server at {ticket.endpoint} does not show the certificate that this session pins "
            f"({error.verify_message}): another server answers there, or something on the way opens TLS"
        ) from None
    except (OSError, ValueError):
        return

"""Certificates renewed while server and clients run: no restart, the same bits, and reminders before that."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from network_sites import run_sites
from network_threads import three_sites, together
from run_files import adapter_of
from splitft import Callback, Job
from splitft.engines.network.control import Welcome
from splitft.engines.network.transport import certs
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.credentials import ClientFiles, channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.issuing import issue
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.pem import certificates_in
from splitft.engines.network.transport.requests import install, request, sign
from splitft.errors import NetworkError
from splitft.history import RoundRecord

NAMES = ("anna", "bert", "cleo")
NEW_HOST = "new.example.org"


def until(true: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def enrol(site: Path, authority: Path, name: str, *, again: bool = False) -> int:
    """Request, sign and install a certificate; return its serial number."""
    csr, _ = request(site, name)
    signed = sign(authority, csr, name, again=again)
    install(site, name, [signed.path, authority / certs.CA])
    return certificates_in(signed.path)[0].serial_number


class Renewal(Callback):
    """After the first round renews a client's certificate and the server's; waits until they are used."""

    def __init__(self, site: Path, authority: Path, heard: list[Listener]) -> None:
        self.site, self.authority, self.heard = site, authority, heard
        self.met: list[str] = []

    def on_round_end(self, job: Job, record: RoundRecord) -> None:
        if record.round != 1:
            return
        serial = enrol(self.site, self.authority, "anna", again=True)
        certs.renew(self.authority, "server", [NEW_HOST], ["127.0.0.1"])
        until(lambda: self.serial_of("anna") == serial, "anna did not come back with its new certificate")
        # The server is now reached by its new name, with the authority that the clients have.
        said: queue.SimpleQueue[str] = queue.SimpleQueue()
        files = channel_credentials("localhost:1", self.site / "anna", False)
        address = f"localhost:{self.heard[0].port}"
        twin = Dialler(address, files, "anna", "", 1 << 20, said.put, expected=NEW_HOST)
        self.met.append(said.get(timeout=60))
        twin.close(0)

    def serial_of(self, name: str) -> int:
        arrival = self.heard[0]._arrivals.get(name)
        return arrival.certificate.serial if arrival and arrival.certificate else 0


def test_a_run_goes_on_with_the_same_bits_while_certificates_are_renewed(tmp_path: Path) -> None:
    """A site's certificate is requested, signed, used, renewed with a new key; the server has a new host."""
    setting = three_sites(tmp_path, NAMES, labels="server")
    together(setting, tmp_path / "plain")
    authority, site, heard = tmp_path / "authority", tmp_path / "site", list[Listener]()
    certs.create_authority(authority)
    before = (authority / certs.CA).read_bytes()
    for name in NAMES:
        enrol(site, authority, name)
    renewal = Renewal(site, authority, heard)
    (tmp_path / "tls").mkdir()
    said = run_sites(
        setting, tmp_path / "tls", server={"certs": authority / "server"},
        client=lambda name: {"certs": site / name}, callbacks=[renewal], heard=heard,
    )  # fmt: skip
    assert adapter_of(tmp_path / "tls" / "run") == adapter_of(tmp_path / "plain" / "run")
    assert renewal.met and "a client called anna is connected already" in renewal.met[0]
    assert (authority / certs.CA).read_bytes() == before
    assert said.count("certificates were read again") == 1


def test_files_that_cannot_be_used_leave_the_former_ones(tmp_path: Path) -> None:
    """Half a renewal, another party's key and a damaged file; then the right files are taken up."""
    folder, said = tmp_path / "authority", list[str]()
    certs.create_authority(folder)
    own = certs.add_client(folder, "alice")
    other = certs.add_client(folder, "bob")
    files = ClientFiles(own)
    first = files.credentials

    def change(name: str, content: bytes) -> bool:
        (own / name).write_bytes(content)
        return [files.refresh(said.append) for _ in range(3)].count(True) > 0

    pair = {name: (own / name).read_bytes() for name in (certs.CLIENT_KEY, certs.CLIENT)}
    assert not change(certs.CLIENT, (other / certs.CLIENT).read_bytes())
    assert "is not the key of the certificate" in said[-1] and files.credentials is first
    assert not change(certs.CLIENT, b"nonsense") and "is no certificate" in said[-1]
    assert not change(certs.CLIENT_KEY, b"nonsense") and files.credentials is first
    for name, content in pair.items():
        change(name, content)
    certs.renew(folder, "alice")
    assert [files.refresh(said.append) for _ in range(3)].count(True) == 1
    assert "certificates were read again" in said[-1] and files.credentials is not first
    assert not files.refresh(said.append) and files.problem() == ""


def test_both_sides_say_that_a_certificate_ends_within_weeks(tmp_path: Path) -> None:
    folder, at_server, at_client = tmp_path / "authority", queue.SimpleQueue[str](), queue.SimpleQueue[str]()
    certs.create_authority(folder)
    certs.add_client(folder, "alice", days=20.5)
    issue(folder, "server", folder / "server" / certs.SERVER, ["localhost"], days=10.5)
    door = Admission(("alice",), {}, True, AuditLog(tmp_path, at_server.put))
    listener = Listener("127.0.0.1:0", folder / "server", door, Welcome(), 1 << 20)
    files = channel_credentials("localhost:1", folder / "alice", False)
    dialler = Dialler(f"localhost:{listener.port}", files, "alice", "", 1 << 20, at_client.put)
    try:
        assert "alice/client.pem ends on" in (line := at_client.get(timeout=60)) and "in 20 days" in line
        told = sorted(at_server.get(timeout=60) for _ in range(2))
        assert "in 10 days" in told[0] and "server/server.pem" in told[0]
        assert told[1].startswith("the certificate of alice ends on") and "in 20 days" in told[1]
    finally:
        dialler.close(0)
        listener.close(0)


@pytest.mark.parametrize(("file", "content", "words"), [
    (certs.CLIENT, None, "cannot read"), (certs.CLIENT, b"nonsense", "is no certificate"),
    (certs.CLIENT_KEY, b"nonsense", "is no private key"), (certs.CA, b"nonsense", "ca.pem is no certificate"),
])  # fmt: skip
def test_a_client_does_not_start_with_files_that_cannot_be_used(
    file: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    certs.create_authority(tmp_path / "authority")
    own = certs.add_client(tmp_path / "authority", "alice")
    if content is None:
        (own / file).unlink()
    else:
        (own / file).write_bytes(content)
    with pytest.raises(NetworkError, match=words):
        channel_credentials("localhost:1", own, False)

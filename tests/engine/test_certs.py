"""`splitft certs`: who gets which files, who can read them, and what the certificates say."""

from __future__ import annotations

import os
import socket
import ssl
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from commands import splitft
from splitft.engines.network.control import Welcome
from splitft.engines.network.transport import certs
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.identity import read_server_files
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.pem import ISSUED
from splitft.errors import JobError, NetworkError

HOST = "server.example.org"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("organiser") / "certs"
    certs.create_authority(folder, [HOST, "192.0.2.7"])
    certs.add_client(folder, "alice")
    certs.add_aggregator(folder)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def hosts_of(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def test_every_party_has_a_folder_and_the_authoritys_key_is_in_none(authority: Path) -> None:
    listens = {certs.CA, certs.CRL, certs.SERVER, certs.SERVER_KEY}
    own = {certs.CA, certs.CA_KEY, certs.CRL, ISSUED}
    assert names(authority) == own | {"server", "aggregator", "alice"}
    assert names(authority / "server") == listens | {
        certs.CLIENT,
        certs.CLIENT_KEY,
    }  # it dials the aggregator
    assert names(authority / "aggregator") == listens
    assert names(authority / "alice") == {certs.CA, certs.CLIENT, certs.CLIENT_KEY}


def test_the_commands_say_where_each_folder_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ("init", "add alice", "aggregator", "renew alice", "revoke alice"):
        assert splitft("certs", *words.split(), monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    for line in (
        "certs/server goes to the server", "certs/ca.key stays here", "certs/alice goes to alice",
        "certs/aggregator goes to whoever runs", "certs/server/client.key goes to the server",
        "certs/alice/client.pem goes to alice with client.key", "certs/revoked.pem goes to the server",
    ):  # fmt: skip
        assert line in said


@pytest.mark.parametrize("there", [False, True])
def test_nobody_else_enters_the_folders_whatever_the_umask(there: bool, tmp_path: Path) -> None:
    """Also where an empty folder that all can write to was there before."""
    folder = tmp_path / "certs"
    before = os.umask(0)
    try:
        if there:
            folder.mkdir()
        certs.create_authority(folder)
        certs.add_client(folder, "alice")
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or path.suffix == ".key":
            assert path.stat().st_mode & 0o077 == 0, path


def test_certificates_say_what_their_keys_are_for(authority: Path) -> None:
    for path, use, named in (
        (authority / "alice" / certs.CLIENT, ExtendedKeyUsageOID.CLIENT_AUTH, ["splitft:alice"]),
        (
            authority / "server" / certs.SERVER,
            ExtendedKeyUsageOID.SERVER_AUTH,
            [*certs.HERE, HOST, "192.0.2.7"],
        ),
    ):
        made = read(path)
        found = made.extensions
        usage = found.get_extension_for_class(x509.KeyUsage)
        assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
        assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [use]
        assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
        own = x509.SubjectKeyIdentifier.from_public_key(made.public_key())
        assert found.get_extension_for_class(x509.SubjectKeyIdentifier).value == own
        assert hosts_of(made) == named


def test_renewed_certificates_keep_names_and_hosts_and_get_new_keys(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    certs.create_authority(folder, [HOST])
    certs.add_client(folder, "alice")
    for path in (folder / "server" / certs.SERVER, folder / "alice" / certs.CLIENT):
        old = read(path)
        assert certs.renew(folder, path.parent.name) == [path]
        new = read(path)
        assert new.public_key() != old.public_key() and new.serial_number != old.serial_number
        assert new.subject == old.subject and hosts_of(new) == hosts_of(old)
    read_server_files(folder / "server", True)  # key and certificate are a pair
    channel_credentials("localhost:1", folder / "alice", False)


def test_a_party_that_listens_refuses_the_authoritys_key(authority: Path, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=rf"holds ca.key, .*: give --certs {authority}/server"):
        certs.check_no_authority(authority)
    certs.check_no_authority(authority / "server")
    (tmp_path / certs.CA_KEY).touch()
    with pytest.raises(NetworkError, match=r"move ca\.key away"):
        certs.check_no_authority(tmp_path)


@pytest.mark.parametrize("name", ["server", "aggregator"])
def test_no_client_gets_the_name_of_another_party(name: str, authority: Path) -> None:
    with pytest.raises(JobError, match="certs aggregator"):
        certs.add_client(authority, name)


@pytest.mark.parametrize("host", ["http://server.example.org", "höst", "", "a b", "server:50051", "[::1]"])
def test_what_is_no_host_is_refused_before_anything_is_written(host: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is no host"):
        certs.create_authority(tmp_path / "certs", [host])
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize(("version", "accepted"), [("TLSv1_3", True), ("TLSv1_2", True), ("TLSv1_1", False)])
def test_versions_of_tls_that_the_server_takes(version: str, accepted: bool, authority: Path) -> None:
    """As gRPC has them: it cannot be told another least version."""
    door = Admission(("alice",), {}, True, AuditLog(authority.parent, lambda text: None))
    listener = Listener("127.0.0.1:0", authority / "server", door, Welcome(), 1 << 20)
    context = ssl.create_default_context(cafile=str(authority / certs.CA))
    context.load_cert_chain(authority / "alice" / certs.CLIENT, authority / "alice" / certs.CLIENT_KEY)
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else this end itself refuses the old ones
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    try:
        with (
            socket.create_connection(("127.0.0.1", listener.port), timeout=10) as plain,
            nullcontext() if accepted else pytest.raises(OSError, match=r"EOF|alert|reset"),
            context.wrap_socket(plain, server_hostname="localhost") as made,
        ):
            assert made.version() == version.replace("_", ".")
    finally:
        listener.close(0)

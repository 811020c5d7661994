"""Certificates that parties request: the private key never leaves its machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commands import splitft
from splitft.engines.network.transport import certs, issuing, pem
from splitft.engines.network.transport.credentials import ClientFiles
from splitft.engines.network.transport.dates import AGAIN_SECONDS, Reminders, ends_soon
from splitft.engines.network.transport.identity import read_server_files
from splitft.engines.network.transport.listing import list_certificates
from splitft.errors import NetworkError

Command = Callable[..., tuple[int, str]]
SITE, AUTHORITY = "site", "authority"


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs `splitft certs ...` in a folder with an authority; returns its exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    certs.create_authority(Path(AUTHORITY), ["server.example.org"])

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = splitft("certs", *words, monkeypatch=monkeypatch)
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    yield call
    os.umask(before)


def serial(path: str) -> int:
    return x509.load_pem_x509_certificate(Path(path).read_bytes()).serial_number


def test_a_site_requests_signs_installs_and_renews(command: Command) -> None:
    """From the first request to a new key; the former certificate stays in use until the new one is there."""
    code, said = command("request", "alice", "--folder", SITE)
    assert code == 0 and "site/alice/request.key stays here" in said
    shown = said.rsplit(" ", 1)[1]
    assert Path("site/alice").stat().st_mode & 0o077 == 0
    assert Path("site/alice/request.key").stat().st_mode & 0o777 == 0o600
    # Only the request goes to the authority, and only a certificate comes back.
    code, said = command("sign", "site/alice/alice.csr", "--folder", AUTHORITY)
    assert code == 0 and shown in said
    assert {path.name for path in Path(AUTHORITY, "alice").iterdir()} == {certs.CA, certs.CLIENT}
    files = ("authority/alice/ca.pem", "authority/alice/client.pem")
    assert command("install", "alice", *files, "--folder", SITE)[0] == 0
    there = {certs.CA, certs.CLIENT, certs.CLIENT_KEY}
    assert {path.name for path in Path("site/alice").iterdir()} == there
    ClientFiles(Path("site/alice"))
    # Renewed with the same key: the certificate alone travels.
    first = serial("site/alice/client.pem")
    code, said = command("renew", "alice", "--folder", AUTHORITY)
    assert code == 0 and "whose key stays the same" in said
    assert not Path("authority/alice/client.key").exists()
    assert command("install", "alice", files[1], "--folder", SITE)[0] == 0
    assert serial("site/alice/client.pem") != first
    # Renewed with a new key: the former pair stays in use until the certificate is installed.
    before = Path("site/alice/client.key").read_bytes()
    assert command("request", "alice", "--folder", SITE)[0] == 0
    ClientFiles(Path("site/alice"))
    code, said = command("sign", "site/alice/alice.csr", "--folder", AUTHORITY)
    assert code == 5 and "--renew" in said and "has a certificate already" in said
    assert command("sign", "site/alice/alice.csr", "--renew", "--folder", AUTHORITY)[0] == 0
    assert command("install", "alice", files[1], "--folder", SITE)[0] == 0
    assert Path("site/alice/client.key").read_bytes() != before
    ClientFiles(Path("site/alice"))
    # Where the first key was stolen, the former certificates alone end.
    assert command("revoke", "alice", "--former", "--folder", AUTHORITY)[0] == 0
    rows = [row for row in list_certificates(Path(AUTHORITY)) if row.name == "alice"]
    assert [row.standing for row in rows].count("revoked") == 2
    assert next(row.standing for row in rows if row.key == "at the party") == "valid"
    # All three are the name's, and revoking the name revokes them.
    code, said = command("revoke", "alice", "--folder", AUTHORITY)
    assert code == 0 and said.count(",") >= 2
    rows = [row for row in list_certificates(Path(AUTHORITY)) if row.name == "alice"]
    assert [row.standing for row in rows] == ["revoked"] * 3


def test_a_server_requests_with_its_hosts_and_gets_more_under_the_same_authority(command: Command) -> None:
    authority = Path(AUTHORITY, certs.CA).read_bytes()
    code, said = command("request", "server", "--host", "old.example.org", "--folder", SITE)
    assert code == 0, said
    code, said = command("sign", "site/server/server.csr", "--renew", "--folder", AUTHORITY)
    assert code == 0 and "for localhost, 127.0.0.1, ::1, old.example.org" in said
    assert not Path("authority/server/server.key").exists()  # that of `init` is used no more
    files = [str(path) for path in Path("authority/server").iterdir()]
    assert command("install", "server", *files, "--folder", SITE)[0] == 0
    read_server_files(Path("site/server"), True)
    # A new host name: the certificate alone travels, and the former name stays until it is dropped.
    words = ("--host", "new.example.org", "--drop-host", "127.0.0.1")
    assert command("renew", "server", *words, "--folder", AUTHORITY)[0] == 0
    assert command("install", "server", "authority/server/server.pem", "--folder", SITE)[0] == 0
    made = x509.load_pem_x509_certificate(Path("site/server/server.pem").read_bytes())
    assert pem.hosts_of(made) == ["localhost", "::1", "old.example.org", "new.example.org"]
    assert Path(AUTHORITY, certs.CA).read_bytes() == authority
    read_server_files(Path("site/server"), True)
    assert command("renew", "server", "--host", "a b", "--folder", AUTHORITY)[0] == 2


def forged(name: str, signer: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request with one key's public half, signed by another."""
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .sign(signer, hashes.SHA256())
    )
    point = serialization.PublicFormat.SubjectPublicKeyInfo
    one, other = (k.public_key().public_bytes(serialization.Encoding.DER, point) for k in (signer, key))
    der = made.public_bytes(serialization.Encoding.DER)
    assert one in der
    return x509.load_der_x509_csr(der.replace(one, other)).public_bytes(serialization.Encoding.PEM)


def test_requests_that_cannot_be_signed_get_one_line_and_their_exit_code(command: Command) -> None:
    assert command("request", "alice", "--folder", SITE)[0] == 0
    csr = Path("site/alice/alice.csr")
    Path("mallory.csr").write_bytes(csr.read_bytes())
    Path("broken.csr").write_text(
        "-----BEGIN CERTIFICATE REQUEST-----\nMII\n-----END CERTIFICATE REQUEST-----\n"
    )
    keys = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    Path("bob.csr").write_bytes(forged("bob", *keys))
    Path("job.yaml").write_text("model_name_or_path: m\nlabels: client\nnetwork: {clients: [bob]}\n")
    for words, wanted, line in (
        (["mallory.csr"], 6, "mallory.csr is a request for 'alice', not for 'mallory'"),
        (["site/alice/alice.csr", "--name", "bob"], 6, "is a request for 'alice', not for 'bob'"),
        (["broken.csr"], 6, "broken.csr is no signing request"),
        (["bob.csr"], 6, "bob.csr is not signed by its own key"),
        (["nowhere.csr"], 5, "cannot read nowhere.csr: No such file"),
        (
            ["site/alice/alice.csr", "--job", "job.yaml"],
            2,
            "no client of the job is called 'alice': there is bob",
        ),
    ):
        code, said = command("sign", *words, "--folder", AUTHORITY)
        assert (code, said.count("error:")) == (wanted, 1) and line in said, said
        assert not Path("authority/alice").exists() and not Path("authority/bob").exists()
    assert command("request", "alice", "--folder", SITE)[0] == 5  # one waits already
    assert command("request", "Alice", "--folder", SITE)[0] == 2
    assert command("request", "alice", "--host", "here", "--folder", SITE)[0] == 2


def test_certificates_that_cannot_be_installed_get_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("request", "alice", "--folder", SITE)
    certs.add_client(Path(AUTHORITY), "bob")
    Path("broken.pem").write_text("-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n")
    certs.add_client(Path(AUTHORITY), "late", days=-0.02)
    for file, line in (
        (
            "authority/bob/client.pem",
            "request.key is not the key of the certificate authority/bob/client.pem",
        ),
        ("broken.pem", "broken.pem is no certificate"),
        ("authority/ca.pem", "none of these files is the certificate of alice"),
        ("authority/late/client.pem", "authority/late/client.pem ended on"),
    ):
        code, said = command("install", "alice", file, "--folder", SITE)
        assert code == 6 and line in said, said
        assert not Path("site/alice/client.pem").exists()
    # A clock that is behind, at a site, at the authority and where a client starts.
    command("sign", "site/alice/alice.csr", "--folder", AUTHORITY)

    class Behind(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2020, 1, 1, tzinfo=timezone.utc)

    monkeypatch.setattr(pem, "datetime", Behind)
    for words in (
        ("install", "alice", "authority/alice/client.pem", "--folder", SITE),
        ("add", "carol", "--folder", AUTHORITY),
    ):
        code, said = command(*words)
        assert code == 6 and "the clock of this machine says 2020-01-01" in said, said
    with pytest.raises(NetworkError, match="set the clock"):
        ClientFiles(Path(AUTHORITY, "bob"))


def test_an_authority_that_is_damaged_says_so(command: Command) -> None:
    for file, content, line in (
        (certs.CA_KEY, "nonsense", "ca.key is no key of an authority"),
        (certs.CA, "nonsense", "ca.pem is no certificate"),
        (pem.ISSUED, "nonsense", "issued.jsonl is damaged"),
        (certs.CRL, "nonsense", "revoked.pem is no list of revoked certificates"),
    ):
        path = Path(AUTHORITY, file)
        before = path.read_bytes()
        path.write_text(content)
        action = ("show",) if file in (pem.ISSUED, certs.CRL) else ("add", "carol")
        code, said = command(*action, "--folder", AUTHORITY)
        assert code == 6 and line in said, said
        path.write_bytes(before)


def test_the_list_shows_names_ends_and_standing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    certs.add_client(Path(AUTHORITY), "alice")
    certs.renew(Path(AUTHORITY), "alice")
    certs.add_client(Path(AUTHORITY), "bob", days=20)
    certs.add_client(Path(AUTHORITY), "late", days=-0.02)
    certs.add_client(Path(AUTHORITY), "eve")
    certs.revoke(Path(AUTHORITY), "eve")
    standing = {(row.name, row.standing) for row in list_certificates(Path(AUTHORITY))}
    assert standing == {
        ("(authority)", "valid"), ("server", "valid"), ("alice", "replaced; valid"), ("alice", "valid"),
        ("bob", "ends in 19 days"), ("late", "ended"), ("eve", "revoked"),
    }  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    code, said = command("show", "--folder", AUTHORITY)
    assert code == 0 and "server.example.org" in said and "eve" in said
    code, said = command("show", "--folder", "authority/alice")  # a party's own folder
    assert code == 0 and "client.pem" in said and "valid" in said
    assert command("show", "--folder", "nowhere")[0] == 5


def test_an_authority_of_an_earlier_version_knows_its_certificates(command: Command) -> None:
    """It kept no record of what it had signed: the files tell, and a renewal notes the former ones."""
    certs.add_client(Path(AUTHORITY), "alice")
    Path(AUTHORITY, pem.ISSUED).unlink()
    former = serial("authority/alice/client.pem")
    certs.renew(Path(AUTHORITY), "alice")
    assert set(certs.revoke(Path(AUTHORITY), "alice")) == {former, serial("authority/alice/client.pem")}
    assert issuing.revoked_serials(Path(AUTHORITY)) >= {former}
    assert all(json.loads(line) for line in Path(AUTHORITY, pem.ISSUED).read_text().splitlines())


def test_a_certificate_ends_with_its_authority_at_the_latest(command: Command) -> None:
    certs.add_client(Path(AUTHORITY), "alice", days=9999)
    one, own = (
        x509.load_pem_x509_certificate(Path(AUTHORITY, *place).read_bytes()).not_valid_after_utc
        for place in (("alice", certs.CLIENT), (certs.CA,))
    )
    assert one == own


def test_a_certificate_that_ends_within_weeks_is_told_once_a_day() -> None:
    now, said, clock = datetime.now(timezone.utc), list[str](), [0.0]
    assert ends_soon("it", now + timedelta(days=31), "renew") == ""
    assert "ends on" in ends_soon("it", now + timedelta(days=29), "renew")
    assert "ended on" in ends_soon("it", now - timedelta(days=1), "renew")
    reminders = Reminders(lambda: clock[0])
    for hour in range(49):
        clock[0] = hour * AGAIN_SECONDS / 24
        reminders.look("it", now + timedelta(days=20, hours=1), "renew", said.append)
    assert len(said) == 3 and said[0].endswith(", in 20 days: renew")

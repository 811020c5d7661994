"""Masked sums signed with certificates of a company's own authority, made by the real openssl."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from network_sites import run_sites
from network_threads import three_sites, together
from openssl import Corporate, needs_openssl
from run_files import adapter_of
from splitft.engines.network.transport.certs import CA, CLIENT, CLIENT_KEY, CRL, SERVER, SERVER_KEY
from splitft.engines.network.transport.chains import MOST_LINKS, read_chain, written
from splitft.engines.network.transport.client_names import CLIENT_NAMES
from splitft.engines.network.transport.signing import CertificateSignatures
from splitft.errors import NetworkError

pytestmark = needs_openssl
NAMES = ("anna", "bert", "cleo")
BY_NAME = "".join(f"{name}: DNS:{name}.example\n" for name in NAMES)


def subject(name: str) -> str:
    return f"/O=Hospital of {name}/CN=Gateway of {name}"


def client_folder(made: Corporate, folder: Path, name: str, names: str = BY_NAME) -> Path:
    """A client's folder: its chain, its key, the root, and which client a certificate is of."""
    folder.mkdir(parents=True)
    (folder / CLIENT).write_text(made.text(f"{name}.pem"))
    (folder / CLIENT_KEY).write_text(made.text(f"{name}.key"))
    (folder / CA).write_text(made.text("root.pem"))
    (folder / CLIENT_NAMES).write_text(names)
    return folder


def issued(made: Corporate, folder: Path, name: str, kind: str | None = None) -> CertificateSignatures:
    made.issue(name, subject(name), f"DNS:{name}.example", kind=kind)
    return CertificateSignatures(client_folder(made, folder / name, name))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Corporate:
    return Corporate(tmp_path_factory.mktemp("authority") / "group")


@pytest.mark.parametrize("kind", ["rsa", "rsa 3072", "ec", "ec p-384"])
def test_every_key_that_tls_takes_signs_a_sum(kind: str, group: Corporate, tmp_path: Path) -> None:
    """A client with this key, and one with another, check each other through an intermediate."""
    one = issued(group, tmp_path, "anna", kind)
    other = issued(group, tmp_path, "bert", "ec" if kind.startswith("rsa") else "rsa")
    for name, signer, reader in (("anna", one, other), ("bert", other, one)):
        signature = signer.sign(b"keys")
        reader.check(name, signer.certificate, signature, b"keys")
        with pytest.raises(ValueError, match=f"signature of {name}"):
            reader.check(name, signer.certificate, signature, b"other keys")
        with pytest.raises(ValueError, match=f"signature of {name}"):
            reader.check(name, signer.certificate, bytes(len(signature)), b"keys")
        with pytest.raises(ValueError, match="another party's"):
            reader.check("cleo", signer.certificate, signature, b"keys")


@pytest.mark.parametrize("kind", ["rsa", "ec p-384"])
def test_an_authority_of_every_kind_counts(kind: str, tmp_path: Path) -> None:
    made = Corporate(tmp_path / "group", kind)
    one, other = (issued(made, tmp_path, name) for name in NAMES[:2])
    other.check("anna", one.certificate, one.sign(b"keys"), b"keys")


@pytest.mark.parametrize("kind", ["ed25519", "rsa 1024"])
def test_other_keys_are_refused_with_the_reason(kind: str, group: Corporate, tmp_path: Path) -> None:
    """Also where a dishonest server passes one on."""
    with pytest.raises(NetworkError, match="a key must be EC, or RSA of 2048 to 8192 bits"):
        issued(group, tmp_path, "anna", kind)
    other = issued(group, tmp_path, "bert")
    chain = written(x509.load_pem_x509_certificates((tmp_path / "anna" / CLIENT).read_bytes()))
    with pytest.raises(ValueError, match="neither EC nor RSA"):
        other.check("anna", chain, b"1", b"keys")


def test_a_chain_must_lead_to_the_root(group: Corporate, tmp_path: Path) -> None:
    """Without its intermediate, under another root, by a client in an authority's place, or too long."""
    anna, bert = (issued(group, tmp_path, name) for name in NAMES[:2])
    signature = anna.sign(b"keys")
    own, between = read_chain(anna.certificate)
    foreign = Corporate(tmp_path / "foreign")
    stranger = issued(foreign, tmp_path / "elsewhere", "anna")
    bert_chain = read_chain(bert.certificate)
    forged = signed_by(bert_chain[0], tmp_path / "bert" / CLIENT_KEY, own)
    for chain, words in (
        ([own], "another authority"),
        (read_chain(stranger.certificate), "another authority"),
        ([forged, *bert_chain], "another authority"),
        ([between, own], "another party's"),
        ([own, *[between] * MOST_LINKS], "no chain"),
    ):
        with pytest.raises(ValueError, match=words):
            bert.check("anna", written(chain), signature, b"keys")
    bert.check(
        "anna", written([own, bert_chain[0], between]), signature, b"keys"
    )  # what is not used may be there
    for content in (
        b"",
        b"\x30",
        b"\x30\x84\xff\xff\xff\xff",
        anna.certificate[:-1],
        anna.certificate + b"\0",
    ):
        with pytest.raises(ValueError, match="certificate of anna"):
            bert.check("anna", content, signature, b"keys")


def signed_by(issuer: x509.Certificate, key: Path, of: x509.Certificate) -> x509.Certificate:
    """A certificate with the names and the key of `of`, signed by a client as if it were an authority."""
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    names = of.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    builder = x509.CertificateBuilder(
        issuer.subject, of.subject, of.public_key(), x509.random_serial_number()
    )
    builder = builder.not_valid_before(of.not_valid_before_utc).not_valid_after(of.not_valid_after_utc)
    return builder.add_extension(names, critical=False).sign(secret, hashes.SHA256())  # type: ignore[arg-type]


def test_an_intermediate_that_has_ended_does_not_count(group: Corporate, tmp_path: Path) -> None:
    """Also where the client's own certificate goes on longer."""
    bert = issued(group, tmp_path, "bert")
    group.issue("anna", subject("anna"), "DNS:anna.example", "-days", "365")
    anna = CertificateSignatures(client_folder(group, tmp_path / "anna", "anna"))
    own, between = read_chain(anna.certificate)
    assert own.not_valid_after_utc > between.not_valid_after_utc + timedelta(days=2)
    for later, words in ((between, "another authority"), (own, "expired")):
        with mock.patch("splitft.engines.network.transport.signing.datetime") as clock:
            clock.now.return_value = later.not_valid_after_utc + timedelta(days=1)
            with pytest.raises(ValueError, match=words):
                bert.check("anna", anna.certificate, anna.sign(b"keys"), b"keys")
    bert.check("anna", anna.certificate, anna.sign(b"keys"), b"keys")


def test_names_of_the_job_come_from_the_clients_own_file(group: Corporate, tmp_path: Path) -> None:
    """Without it a client's name is the common name, which a company's certificates do not have."""
    anna = issued(group, tmp_path, "anna")
    group.issue("cn", "/O=Group/CN=bert", "DNS:bert.example")
    folder = client_folder(group, tmp_path / "bert", "cn")
    CertificateSignatures(folder).check("anna", anna.certificate, anna.sign(b"keys"), b"keys")
    (folder / CLIENT_NAMES).unlink()
    bert = CertificateSignatures(folder)
    with pytest.raises(ValueError, match="another party's"):
        bert.check("anna", anna.certificate, anna.sign(b"keys"), b"keys")
    bert.check("bert", bert.certificate, bert.sign(b"keys"), b"keys")


@pytest.mark.slow
def test_a_run_whose_sites_have_certificates_of_a_company(tmp_path: Path) -> None:
    """RSA keys, an intermediate, corporate names: the bits are those of a run without certificates."""
    kinds = dict(zip(NAMES, ("rsa", "ec p-384", "rsa 3072"), strict=True))
    own = {"method": "fed_lora", "cuts": 1, "robust_aggregation": "none", "secure_aggregation": True}
    setting = three_sites(tmp_path, NAMES, labels="server", privacy="sum_only", **own)
    made, server = Corporate(tmp_path / "group", "rsa"), tmp_path / "server"
    server.mkdir()
    (tmp_path / "apart").mkdir()
    made.issue("server", "/O=Group/CN=splitft", "DNS:localhost")
    for name in NAMES:
        made.issue(name, subject(name), f"DNS:{name}.example", kind=kinds[name])
        client_folder(made, tmp_path / "certs" / name, name)
    for file, names in (
        (SERVER, ["server.pem"]),
        (SERVER_KEY, ["server.key"]),
        (CA, ["root.pem", "issuing.pem"]),
    ):
        (server / file).write_text(made.text(*names))
    (server / CRL).write_text(made.lists("root", "issuing"))
    (server / CLIENT_NAMES).write_text(BY_NAME)
    said = run_sites(
        setting,
        tmp_path / "apart",
        server={"certs": server},
        client=lambda name: {"certs": tmp_path / "certs" / name},
    )
    assert "secure aggregation without certificates" not in said
    together(setting, tmp_path / "plain")
    assert adapter_of(tmp_path / "apart" / "run") == adapter_of(tmp_path / "plain" / "run")

"""Keys of a sum are signed by their clients' certificates: a server cannot put its own in their place."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest import mock

import pytest

from splitft.engines.network.transport import certs
from splitft.engines.network.transport.signing import CertificateSignatures
from splitft.errors import NetworkError
from splitft.running.sums import renewed
from splitft.wire.secagg.member import SumMember
from splitft.wire.secagg.roll import Unsigned, context_of

NAMES = ["anna", "bert", "cleo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("organiser") / "certs"
    certs.create_authority(made)
    certs.add_aggregator(made)
    for name in NAMES:
        certs.add_client(made, name)
    return made


def test_a_signature_is_that_of_its_client_alone(folder: Path) -> None:
    anna, bert = (CertificateSignatures(folder / name) for name in NAMES[:2])
    signature = anna.sign(b"keys")
    bert.check("anna", anna.certificate, signature, b"keys")
    for name, certificate, content in (
        ("bert", anna.certificate, b"keys"),
        ("anna", bert.certificate, b"keys"),
        ("anna", anna.certificate, b"other keys"),
        ("anna", b"", b"keys"),
        ("anna", b"\x30" * 50, b"keys"),
    ):
        with pytest.raises(ValueError, match="certificate"):
            bert.check(name, certificate, signature, content)
    with pytest.raises(ValueError, match="signature of anna"):
        bert.check("anna", anna.certificate, b"", b"keys")


def test_certificates_of_others_do_not_count(folder: Path, tmp_path: Path) -> None:
    """Of another authority, of the server, or expired."""
    bert = CertificateSignatures(folder / "bert")
    other = tmp_path / "other"
    certs.create_authority(other)
    foreign = CertificateSignatures(certs.add_client(other, "anna"))
    with pytest.raises(ValueError, match="another authority"):
        bert.check("anna", foreign.certificate, foreign.sign(b"keys"), b"keys")
    server = CertificateSignatures(folder / "server")  # by which it dials the aggregator
    with pytest.raises(ValueError, match="another party's"):
        bert.check("anna", server.certificate, server.sign(b"keys"), b"keys")
    late = CertificateSignatures(certs.add_client(folder, "late", days=1))
    with mock.patch("splitft.engines.network.transport.signing.datetime") as clock:
        real = datetime.now(timezone.utc)
        clock.now.return_value = real + timedelta(days=2)
        with pytest.raises(ValueError, match="expired"):
            bert.check("late", late.certificate, late.sign(b"keys"), b"keys")


def test_keys_that_a_server_puts_in_a_clients_place_are_refused(folder: Path) -> None:
    context = context_of(1, 1)

    def member(name: str, signer: CertificateSignatures | Unsigned) -> SumMember:
        return SumMember(name, context, 5, None, 3, signer)

    honest = {name: member(name, CertificateSignatures(folder / name)) for name in NAMES}
    roll = {name: one.keys() for name, one in honest.items()}
    unsigned = member("cleo", Unsigned()).keys()
    signed_by_bert = member("cleo", CertificateSignatures(folder / "bert")).keys()
    of_another_sum = SumMember("cleo", context_of(1, 2), 5, None, 3, CertificateSignatures(folder / "cleo"))
    for forged in (unsigned, signed_by_bert, of_another_sum.keys()):
        anna = member("anna", CertificateSignatures(folder / "anna"))
        with pytest.raises(ValueError, match="cleo"):
            anna.seal(roll | {"anna": anna.keys(), "cleo": forged})
    assert set(honest["anna"].seal(roll)) == {"bert", "cleo"}


def test_a_folder_that_cannot_sign_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="cannot sign for secure aggregation"):
        CertificateSignatures(tmp_path)


def test_each_sum_is_signed_with_the_certificate_as_it_then_is(folder: Path, tmp_path: Path) -> None:
    """Renewed between two sums, or gone: then the last one signs on."""
    own = tmp_path / "anna"
    shutil.copytree(folder / "anna", own)
    sign_for, bert = renewed(own), CertificateSignatures(folder / "bert")
    first = sign_for()
    assert sign_for().certificate == first.certificate
    certs.renew(folder, "anna")
    shutil.copytree(folder / "anna", own, dirs_exist_ok=True)
    second = sign_for()
    assert second.certificate != first.certificate
    bert.check("anna", second.certificate, second.sign(b"keys"), b"keys")
    (own / certs.CLIENT_KEY).unlink()
    assert sign_for().certificate == second.certificate

"""A corporate authority, made by the openssl of this machine: a root, an intermediate, lists of revoked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl is installed here")
CONFIG = """\
[ca]
default_ca = own
[own]
database = {folder}/{name}.index
new_certs_dir = {folder}
serial = {folder}/{name}.serial
certificate = {folder}/{name}.pem
private_key = {folder}/{name}.key
default_md = sha256
default_days = 90
default_crl_days = 30
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
organizationName = optional
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""


KEYS = {
    "ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "ec p-384": ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "rsa": ["rsa:2048"], "rsa 3072": ["rsa:3072"], "rsa 1024": ["rsa:1024"], "ed25519": ["ed25519"],
}  # fmt: skip


class Corporate:
    """Issues as a company's authority does: from an intermediate, with names of its own.

    kind: of all keys, a name in KEYS.
    """

    def __init__(self, folder: Path, kind: str = "ec") -> None:
        folder.mkdir()
        self.folder = folder
        self._key = ["-newkey", *KEYS[kind]]
        for name in ("root", "issuing"):
            (folder / f"{name}.cnf").write_text(CONFIG.format(folder=folder, name=name))
            (folder / f"{name}.index").touch()
            (folder / f"{name}.serial").write_text("1000\n")
        subject = "/O=Hospital group/CN=Hospital group root"
        extensions = ["-extensions", "authority", "-config", self._config("root")]
        self._call("req", "-x509", *self._key, "-nodes", "-days", "365", "-subj", subject, *extensions,
                   "-keyout", "root.key", "-out", "root.pem")  # fmt: skip
        self._request("issuing", "/O=Hospital group/CN=Hospital group issuing")
        self._sign("root", "issuing", "-extensions", "authority")

    def issue(self, name: str, subject: str, names: str, *more: str, kind: str | None = None) -> Path:
        """Make a key and a certificate; the file holds the chain without the root.

        names: of the SAN. more: words for openssl. kind: of its key; None: of the authority's.
        """
        before = self._key
        self._key = ["-newkey", *KEYS[kind]] if kind else before
        self._request(name, subject, "-addext", f"subjectAltName={names}")
        self._key = before
        self._sign("issuing", name, *more)
        path = self.folder / f"{name}.pem"
        path.write_text(path.read_text() + (self.folder / "issuing.pem").read_text())
        return path

    def revoke(self, name: str, by: str = "issuing") -> None:
        """Revoke a certificate that `by` has signed."""
        self._call("ca", "-config", self._config(by), "-revoke", f"{name}.pem")

    def lists(self, *by: str, hours: int = 720) -> str:
        """Return the lists of revoked certificates, as one text. hours: until the next ones are due."""
        for name in by:
            dates = ("-crlhours", str(hours))
            self._call("ca", "-config", self._config(name), "-gencrl", *dates, "-out", f"{name}.crl")
        return "".join((self.folder / f"{name}.crl").read_text() for name in by)

    def text(self, *names: str) -> str:
        """Return certificates or keys, as one text."""
        return "".join((self.folder / name).read_text() for name in names)

    def _config(self, name: str) -> str:
        return str(self.folder / f"{name}.cnf")

    def _request(self, name: str, subject: str, *more: str) -> None:
        self._call("req", "-new", *self._key, "-nodes", "-subj", subject, "-config", self._config("root"),
                   *more, "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip

    def _sign(self, by: str, name: str, *more: str) -> None:
        self._call("ca", "-batch", "-notext", "-config", self._config(by), "-in", f"{name}.csr",
                   "-out", f"{name}.pem", *more)  # fmt: skip

    def _call(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr

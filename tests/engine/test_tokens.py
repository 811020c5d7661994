"""A token for each client, of which the server keeps the hash: real connections to a real listener."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from commands import splitft
from splitft.engines.network.control import WIRE, End, Refused, Welcome
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.tokens import TOKEN, TOKENS, TokenFile, make_token, read_tokens
from splitft.errors import JobError

NAMES = ("alice", "bob", "carol")
LIMIT = 1 << 20


def token_of(folder: Path, name: str) -> str:
    return (folder / name / TOKEN).read_text().strip()


def meet(port: int, name: str, token: str) -> tuple[Any, Dialler]:
    dialler = Dialler(f"127.0.0.1:{port}", None, name, token, LIMIT)
    return dialler.incoming.get(timeout=60), dialler


def test_another_clients_token_lets_nobody_in_and_a_token_that_is_taken_away_ends_its_connection(
    tmp_path: Path,
) -> None:
    for name in NAMES[:2]:
        make_token(tmp_path, name)
    kept, said = tmp_path / TOKENS, list[str]()
    secrets = [token_of(tmp_path, name) for name in NAMES[:2]]
    assert not any(secret in kept.read_text() for secret in secrets) and len(set(secrets)) == 2
    for path in (kept, tmp_path / "alice" / TOKEN):
        assert path.stat().st_mode & 0o077 == 0
    door = Admission(NAMES, {}, False, AuditLog(tmp_path, said.append), TokenFile(kept, said.append))
    listener = Listener("127.0.0.1:0", None, door, Welcome(), LIMIT)
    diallers: list[Dialler] = []
    try:
        # Only the pair of name and token counts.
        for name, token in (
            ("alice", secrets[1]), ("bob", secrets[0]), ("alice", ""), ("alice", secrets[0][:-1]),
            ("carol", secrets[0]), ("carol", ""), ("mallory", secrets[0]),
        ):  # fmt: skip
            answer, dialler = meet(listener.port, name, token)
            diallers.append(dialler)
            assert isinstance(answer, Refused) and not answer.again and "token is wrong" in answer.reason
        made = {}
        for name, token in zip(NAMES, secrets, strict=False):
            answer, made[name] = meet(listener.port, name, token)
            diallers.append(made[name])
            assert isinstance(answer, Welcome)
        # A damaged file changes nothing; a token that is made anew ends the former one, which is in use.
        good = kept.read_text()
        kept.write_text("alice\n")
        answer, dialler = meet(listener.port, "carol", secrets[0])
        diallers.append(dialler)
        assert isinstance(answer, Refused)
        assert any("the former ones stay: --tokens" in line and "line 1" in line for line in said)
        kept.write_text(good)
        make_token(tmp_path, "alice", again=True)
        end = WIRE.decode(made["alice"].incoming.get(timeout=60))
        assert isinstance(end, End) and not end.ok and "its token was taken away" in end.reason
        assert made["bob"].incoming.empty()
        answer, dialler = meet(listener.port, "alice", token_of(tmp_path, "alice"))
        diallers.append(dialler)
        assert isinstance(answer, Welcome)
    finally:
        for dialler in diallers:
            dialler.close(0)
        listener.close(0)
    assert not any(secret in line for secret in secrets for line in said)


def test_a_name_has_two_tokens_while_one_takes_the_others_place(tmp_path: Path) -> None:
    """Both lines count until the operator takes one out."""
    make_token(tmp_path, "alice")
    old, line = token_of(tmp_path, "alice"), (tmp_path / TOKENS).read_text()
    make_token(tmp_path, "alice", again=True)
    (tmp_path / TOKENS).write_text("# while sites change over\n\n" + line + (tmp_path / TOKENS).read_text())
    tokens = TokenFile(tmp_path / TOKENS, lambda text: None)
    assert tokens.accepts("alice", old) and tokens.accepts("alice", token_of(tmp_path, "alice"))
    assert not tokens.accepts("bob", old) and tokens.without(NAMES) == ["bob", "carol"]


@pytest.mark.parametrize(
    "line", ["alice", "alice sha256:12", "Alice sha256:" + "0" * 64, "alice " + "0" * 64]
)
def test_lines_that_are_none_are_named(line: str, tmp_path: Path) -> None:
    (tmp_path / TOKENS).write_text(f"# ours\n{line}\n")
    with pytest.raises(JobError, match="line 2: write NAME sha256:HASH"):
        read_tokens(tmp_path / TOKENS)


def test_the_command_makes_tokens_and_never_prints_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert splitft("certs", "token", "alice", "bob", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "certs/alice/token goes to alice" in said and "certs/tokens goes to the server" in said
    assert token_of(tmp_path / "certs", "alice") not in said
    assert splitft("certs", "token", "alice", monkeypatch=monkeypatch) == 5
    assert splitft("certs", "token", "alice", "--renew", monkeypatch=monkeypatch) == 0
    assert splitft("certs", "token", "Alice", monkeypatch=monkeypatch) == 2
    assert len(read_tokens(tmp_path / "certs" / TOKENS)) == 2


def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_token(tmp_path, "alice")
    (tmp_path / "secret").write_text("0123456789abcdef")
    job = "model_name_or_path: builtin:smollm2-135m\nlabels: client\nprivacy: server_reads\n"
    job += "network: {clients: [alice, bob]%s}\n"
    (tmp_path / "job.yaml").write_text(job % "")
    (tmp_path / "two.yaml").write_text(job % ", aggregator: 127.0.0.1:1")
    client = ("client", "--server", "localhost:1", "--name", "alice", "--job-data", "--token", "secret")
    for words, line in (
        (("server", "job.yaml", "--tokens", "nowhere"), "--tokens nowhere cannot be read"),
        (("server", "job.yaml", "--tokens", "tokens", "--token-file", "secret"), "not both"),
        (("server", "two.yaml", "--tokens", "tokens"), "--tokens does not go with network.aggregator"),
        ((*client, "--token-file", "secret"), "not both"),
        ((*client[:-1], "nowhere"), "--token nowhere cannot be read"),
    ):
        assert splitft(*words, monkeypatch=monkeypatch) == 2
        assert line in " ".join(capsys.readouterr().err.split())


def test_the_queue_of_a_dialler_holds_no_token(tmp_path: Path) -> None:
    """A token is in no text of a dialler's that a log could show."""
    dialler = Dialler("127.0.0.1:1", None, "alice", "0123456789abcdef", LIMIT)
    try:
        assert "0123456789abcdef" not in repr(dialler)
        with pytest.raises(queue.Empty):
            dialler.incoming.get(timeout=0.01)
    finally:
        dialler.close(0)

"""What a hostile server asks of a real client is not done: the client ends with one line that says why.

Each way of `WAYS` was open once; `docs/threat-model.md` names them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cases import rest_slow
from forks import run_command
from hostile_server import NAME, HostileServer, Values, Victim, assembled, cancelling
from reference import make_setting
from splitft.engines.network.control import End, Evaluate, Train
from splitft.errors import NetworkError, PolicyError
from splitft.running.prepare import Assembly
from splitft.wire.messages import Activations, TrunkOutput

CONTROL = "\x1b]52;c;cm0gLXJm\x07\x1b[2J[bold red]read this[/]"


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Values:
    folder = tmp_path_factory.mktemp("site")
    rows = [
        {"text": f"public note {i} on the peace of the nation", "patient": f"Secret {i}"} for i in range(30)
    ]
    (folder / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "tokens.json").write_text(
        "\n".join(json.dumps({"refresh_token": f"canary-{i}"}) for i in range(9))
    )
    return make_setting(folder, "llama") | {
        "adapter_name_or_path": None, "data_files": None, "labels": "client", "tail_blocks": 1, "cuts": 2,
        "rounds": 2, "local_steps": 1, "eval_every": 1, "max_eval_samples": None, "warmup_steps": 0,
        "clients": 1, "network": {"clients": [NAME]}, "folder": str(folder),
    }  # fmt: skip


def job_of(setting: Values, **changes: Any) -> Values:
    return {key: value for key, value in (setting | changes).items() if key != "folder"}


@pytest.fixture(scope="module")
def start(setting: Values) -> Assembly:
    return assembled(job_of(setting))


@pytest.fixture(scope="module")
def full_rank(setting: Values) -> Assembly:
    wide = {"lora_r": 32, "lora_alpha": 32, "lora_target_modules": ["o_proj", "down_proj"]}
    return assembled(job_of(setting, **wide))


@pytest.fixture
def siege(
    start: Assembly, setting: Values, tmp_path: Path
) -> Iterator[Callable[..., tuple[HostileServer, Victim]]]:
    """Start a hostile server, and a client that dials it with `notes.jsonl` as its own data."""
    servers = []

    def begin(
        *, of: Assembly = start, own_data: bool = True, tell: Any = None, welcome: Any = None, **options: Any
    ) -> Any:
        (tmp_path / "server").mkdir(exist_ok=True)
        server = HostileServer(of, tmp_path / "server", tell or (lambda job: None), **(welcome or {}))
        servers.append(server)
        data = Path(setting["folder"], "notes.jsonl") if own_data else None
        return server, Victim(server, tmp_path / "client", data, **options)

    yield begin
    for server in servers:
        server.close()


def policy(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


# The job itself asks for too much: nothing is read, nothing is loaded.
JOBS: dict[str, tuple[Values, str, str]] = {
    "labels to the server": (
        {"labels": "server", "tail_blocks": 0}, "labels: [client]", "labels server, allowed client"
    ),
    "another column": ({"dataset_text_field": "patient"}, "columns: [text]", "column patient, allowed text"),
    "10^12 steps": ({"local_steps": 10**12}, "max_local_steps: 9", "local_steps 1000000000000, max_local"),
    "10^12 rounds": ({"rounds": 10**12}, "max_rounds: 50", "rounds 1000000000000, max_rounds 50"),
    "evaluations": ({"rounds": 400}, "max_evaluations: 40", "evaluations 402, max_evaluations 40"),
    "full rank": ({"lora_r": 576}, "{}", "lora_r 576, max_lora_r 64"),
    "an internal host": (
        {"network": {"clients": [NAME], "aggregator": "10.0.0.7:22"}}, "{}",
        "network.aggregator 10.0.0.7:22, allowed hosts 127.0.0.1",
    ),
    "a kernel of a hub": ({"attn_implementation": "org/kernel"}, "{}", "attn_implementation org/kernel, all"),
    "another model": (
        {"model_name_or_path": "/srv/x"}, "models: {good: []}", "model_name_or_path /srv/x, allowed good"
    ),
    "a deep front": ({"cuts": 3}, "max_cut: 2", "cuts 3, max_cut 2"),
    "a long tail": ({"tail_blocks": 2}, "max_tail_blocks: 1", "tail_blocks 2, max_tail_blocks 1"),
    "a codec": ({"codec": "none"}, "codecs: [int8]", "codec none, allowed int8"),
}  # fmt: skip


QUICK_JOBS = ["labels to the server", "full rank", "an internal host", "a kernel of a hub"]


@pytest.mark.parametrize("way", rest_slow(JOBS, QUICK_JOBS))
def test_a_job_beyond_the_policy_is_refused(way: str, siege: Any, tmp_path: Path) -> None:
    changes, text, line = JOBS[way]
    server, victim = siege(tell=lambda job: job.update(changes), policy=policy(tmp_path, text))
    assert not server.restore()
    told = victim.end()
    assert line in told and "\n" not in told
    assert victim.error is not None and victim.error.exit_code == PolicyError.exit_code
    assert [type(message).__name__ for message in server.heard] == ["Failed"] and server.heard[0].again


def test_files_that_a_job_names_are_not_read(siege: Any, setting: Values, tmp_path: Path) -> None:
    wanted = {"data_files": f"{setting['folder']}/token[s].json", "dataset_text_field": "refresh_token"}
    server, victim = siege(own_data=False, tell=lambda job: job.update(wanted))
    assert not server.restore()
    assert "token[s].json, allowed none (files)" in victim.end()


def test_without_an_owners_word_nothing_is_done(siege: Any, tmp_path: Path) -> None:
    """An unattended client shows the job and ends; the digest that it names lets it in, and is kept."""
    server, victim = siege(accept="")
    assert not server.restore()
    told = victim.end()
    digest = told.split("--accept ")[1].split(",")[0]
    assert told == (
        f"the server's job {digest} needs its owner's agreement: read it, then use --accept {digest}, or "
        "--accept first"
    )
    server, victim = siege(accept=digest)
    assert server.restore()
    server.say(End("", False))
    victim.end()
    server, victim = siege(accept="")
    assert server.restore()


@pytest.mark.parametrize(("change", "line"), rest_slow([
    ({"labels": "server", "tail_blocks": 0}, "labels: 'client', now 'server'"),
    ({"dataset_text_field": "patient"}, "dataset_text_field: 'text', now 'patient'"),
    ({"rounds": 400, "learning_rate": 1e30}, "rounds: 2, now 400; learning_rate: 0.005, now 1e+30"),
    ({"cuts": 3}, "cuts: 2, now 3"),
], 1))  # fmt: skip
def test_a_job_that_changes_at_a_restart_is_refused(change: Values, line: str, siege: Any) -> None:
    """The client is started again by an init system, with the same command."""
    server, victim = siege()
    assert server.restore()
    server.say(End("", False))
    victim.end()
    server, victim = siege(tell=lambda job: job.update(change))
    assert not server.restore()
    told = victim.end()
    assert f"has changed since its owner agreed ({line}" in told and "--accept first" not in told
    server, victim = siege(tell=lambda job: job.update(change), accept=told.split("--accept ")[1])
    assert server.restore()


def ask(*requests: Any, round_: int = 0) -> Callable[[HostileServer], Any]:
    """Hand out adapters, and ask for these."""

    def script(server: HostileServer) -> None:
        server.hand_out(round_=round_)
        for request in requests:
            server.say(request)
        server.hear()

    return script


def only(request: Any) -> Callable[[HostileServer], Any]:
    """Ask for this, without adapters."""

    def script(server: HostileServer) -> None:
        server.say(request)
        server.hear()

    return script


def answer_wrongly(server: HostileServer) -> None:
    server.hand_out(round_=1)
    server.say(Train(1, 1))
    server.hear(Activations)
    server.say(TrunkOutput(1, 0, 0, True, torch.zeros(3, 32)))
    server.hear()


def change_values(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[HostileServer], Any]:
    return lambda server: server.hand_out(values=tuple(map(change, server.down(2).values)))


def few_bytes(server: HostileServer) -> None:
    server.listener.send(NAME, b"\xff" * 100)
    server.hear()


# What is asked once the client takes part, the error that ends it, and a part of its one line.
REQUESTS: dict[str, tuple[Callable[[HostileServer], Any], type, str]] = {
    "a deeper cut": (lambda s: s.hand_out(cut=3), PolicyError, "a cut of 3 blocks, the job has 2"),
    "one block": (lambda s: s.hand_out(cut=1), PolicyError, "a cut of 1 blocks, the job has 2"),
    "no front": (lambda s: s.hand_out(cut=0), PolicyError, "a cut of 0 blocks, the job has 2"),
    "2^40 blocks": (lambda s: s.hand_out(cut=1 << 40), PolicyError, "a cut of 1099511627776 blocks"),
    "2^62 parts": (lambda s: s.hand_out(micro_batches=1 << 62), PolicyError, "the job has at most 1"),
    "a round beyond the last": (lambda s: s.hand_out(round_=3), PolicyError, "round 3 after round -1 of 2"),
    "no such block": (
        lambda s: s.hand_out(blocks=(99,), values=(torch.zeros(3),)), NetworkError, "adapters of blocks [99]"
    ),
    "few values": (lambda s: s.hand_out(values=(torch.zeros(3),)), NetworkError, "AdapterDown cannot be fo"),
    "NaN": (change_values(lambda v: v * float("nan")), NetworkError, "not finite"),
    "integers": (change_values(torch.Tensor.int), NetworkError, "adapter values of torch.int32"),
    "a basis of nothing": (
        lambda s: s.hand_out(rebased=(0,), bases=(torch.zeros(3),)), NetworkError, "a change of basis"
    ),
    "no adapters": (
        lambda s: s.hand_out(blocks=(), values=()), NetworkError, "no adapters of blocks [0, 1, 3], which"
    ),
    "values for no block": (
        lambda s: s.hand_out(values=()), NetworkError, "0 adapters and 0 changes of basis for 3 and 0 blocks"
    ),
    "a frozen block elsewhere": (
        lambda s: s.hand_out(frozen=(77,)), NetworkError, "[0, 1, 3], with A frozen in [77], where the client"
    ),
    "training before anything": (
        only(Train(1, 1)), NetworkError, "Train cannot be followed: it came before any adapters"
    ),
    "evaluation before anything": (
        only(Evaluate(0, 1, False, 0)), NetworkError, "Evaluate cannot be followed: it came before any"
    ),
    "a second evaluation": (
        ask(Evaluate(0, 1, False, 0), Evaluate(0, 1, False, 0)), PolicyError, "a second evaluation after"
    ),
    "evaluation after the end": (ask(Evaluate(9, 1, True, 0)), PolicyError, "round 9 after round 0 of 2"),
    "training without adapters": (ask(Train(2, 1)), PolicyError, "to train round 2 after the adapters of 0"),
    "attempt 10^9": (ask(Train(1, 10**9), round_=1), PolicyError, "attempt 1000000000 at a round"),
    "48 MB that nobody asked for": (
        ask(TrunkOutput(0, 0, 0, True, torch.zeros(12 << 20))), NetworkError, "breaks the protocol: a payload"
    ),
    "an answer of another shape": (answer_wrongly, NetworkError, "cannot be followed: rows of "),
    "no message": (few_bytes, NetworkError, "what cannot be read"),
}  # fmt: skip


QUICK_REQUESTS = ["2^40 blocks", "no such block", "NaN", "a second evaluation", "48 MB that nobody asked for"]


@pytest.mark.parametrize("way", rest_slow(REQUESTS, QUICK_REQUESTS))
def test_a_request_beyond_the_job_is_not_done(way: str, siege: Any) -> None:
    script, kind, line = REQUESTS[way]
    server, victim = siege()
    assert server.restore()
    script(server)
    told = victim.end()
    assert line in told and "\n" not in told and type(victim.error) is kind
    assert "faults.log" not in told  # a check refused it
    assert server.saw_activations() == (way in ("a second evaluation", "an answer of another shape"))


@pytest.mark.parametrize("rank", rest_slow([32, 16, 8], 1))
def test_adapters_that_cancel_the_front_are_refused(rank: int, siege: Any, full_rank: Assembly) -> None:
    """At full rank every token would lie open: activations would be embeddings (labels at home)."""
    server, victim = siege(of=full_rank)
    assert server.restore()
    values = dict(zip(full_rank.adapter, cancelling(full_rank, 2, rank), strict=True))
    down = server.down(2)
    assert not server.hand_out(values=tuple(values[block] for block in down.blocks))
    told = victim.end()
    assert "the server's adapters cancel" in told and "max_cancelled is 0.25" in told
    assert not server.saw_activations()


def test_a_folder_that_the_server_names_is_not_taken_for_another_model(
    siege: Any, setting: Values, start: Assembly
) -> None:
    """Other weights of the same shape: refused, with both digests."""
    things, values = zip(*{"block 0": "0" * 16}.items(), strict=True)
    server, victim = siege(welcome={"things": things, "values": values})
    assert not server.restore()
    told = victim.end()
    assert "block 0: " in told and f"at the server {'0' * 16}" in told and victim.error is not None
    assert server.heard[0].again and "block 0: " in server.heard[0].reason


def test_words_of_a_server_move_no_cursor(siege: Any, setting: Values, tmp_path: Path) -> None:
    for tell in (
        lambda job: job.update({"dataset_text_field": CONTROL}),
        lambda job: job.update({CONTROL: 1}),
    ):
        server, victim = siege(tell=tell)
        assert not server.restore()
        assert victim.end().isprintable()
    server, victim = siege()
    assert server.restore()
    server.say(End(CONTROL, False))
    assert victim.end().isprintable()


def test_the_command_prints_a_servers_words_as_plain_text(
    start: Assembly, setting: Values, tmp_path: Path
) -> None:
    """The whole way, to the terminal: a refusal, and an end."""
    server = HostileServer(start, tmp_path)
    words = ["client", "--server", server.address, "--name", NAME, "--accept", "first"]
    words += ["--data", f"{setting['folder']}/notes.jsonl", "--folder", str(tmp_path / "other")]
    results: list[Any] = []
    command = threading.Thread(target=lambda: results.append(run_command(*words)))
    command.start()
    assert server.restore()
    server.say(End(CONTROL, False))
    command.join(60)
    server.close()
    (done,) = results
    assert done.returncode == NetworkError.exit_code
    assert "read this" in done.stderr and "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("change", "line"), rest_slow([
    ({"dataset_text_field": "nope"}, "dataset_text_field is a key of the server's job: change what is here"),
    ({"codec": "evil"}, "no codec is called evil; there are none, bf16"),
    ({"max_length": 10**9}, "lower max_length (max_length is a key of the server's job: change what is here"),
], 1))  # fmt: skip
def test_advice_about_keys_says_whose_job_it_is(change: Values, line: str, siege: Any) -> None:
    server, victim = siege(tell=lambda job: job.update(change))
    assert not server.restore()
    told = victim.end()
    assert line in told and "is a key of the server's job" in told


def test_jobs_that_cannot_be_read_are_told_in_one_line(siege: Any) -> None:
    for text, line in (
        ('{"x": 1}', "keys that this version does not know: x"),
        ("[" * 9999, "cannot be read"),
        ("nothing", "cannot be read"),
    ):
        server, victim = siege(tell=lambda job, text=text: text)
        assert not server.restore()
        told = victim.end()
        assert line in told and "\n" not in told


def test_optional_keys_of_a_newer_server_are_passed_over(siege: Any) -> None:
    def tell(job: Values) -> None:
        job.setdefault("cut_policy", {})["of_tomorrow"] = 3
        job["also_new"] = 1

    server, _ = siege(tell=tell, welcome={"optional": ("also_new", "cut_policy", "network")})
    assert server.restore()

"""Cohorts of those that are connected: 30 registered, 8 come and go, 4 a round; over loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from coming_clients import Clients, registered_job, replayed, serve_clients
from network_threads import Settings
from run_files import adapter_of, figures_of
from splitft import Callback, Job
from splitft.engines.network.cohorts import COHORTS, COUNTED, DRAWN, LOST, read_lines
from splitft.engines.network.control import Welcome
from splitft.engines.network.membership import MEMBERS
from splitft.engines.network.transport.dialler import MAX_PAYLOAD, Dialler
from splitft.errors import JobError
from splitft.history import RoundRecord
from splitft.running.registered import KEPT
from splitft.wire.messages import Activations


class Rounds(Callback):
    """Calls functions at rounds, each once: as one begins, with its cohort, and as one has ended."""

    def __init__(self) -> None:
        self.begins: dict[int, Any] = {}
        self.ends: dict[int, Any] = {}
        self.steps: dict[int, Any] = {}
        self.cohorts: list[tuple[int, list[str]]] = []

    def on_round_begin(self, job: Job, round_: int, cuts: Mapping[str, int], cohort: Sequence[str]) -> None:
        self.cohorts.append((round_, list(cohort)))
        self.begins.pop(round_, lambda cohort: None)(list(cohort))

    def on_step_end(self, job: Job, round_: int, step: int, client: str, loss: float) -> None:
        self.steps.pop(round_, lambda: None)()

    def on_round_end(self, job: Job, record: RoundRecord) -> None:
        self.ends.pop(record.round, lambda: None)()


def trains(message: Any) -> bool:
    return isinstance(message, Activations) and message.train


def lines(run: Path, event: str) -> list[tuple[int, list[str]]]:
    return [(round_, clients) for kind, round_, clients in read_lines(run / COHORTS) if kind == event]


def check_record(run: Path, most: int) -> None:
    """The record, the history and the step log say the same."""
    counted = dict(lines(run, COUNTED))
    drawn = dict(lines(run, DRAWN))
    for line in figures_of(run)[1:]:
        assert line["cohort"] == counted[line["round"]] and len(line["cohort"]) == most
        assert {*line["cohort"]} <= {*drawn[line["round"]]}
        assert all(line["clients"][name]["train_tokens"] for name in line["cohort"])


def test_clients_come_and_go_and_a_replay_has_the_same_bits(tmp_path: Path) -> None:
    """One is killed in its steps: the round begins anew with others, and it goes on with its state later."""
    setting, come = registered_job(tmp_path, 30, 8, rounds=5, clients_per_round=4, eval_clients=3)
    clients, rounds, left = Clients(tmp_path), Rounds(), list[str]()

    def go(cohort: list[str]) -> None:
        left.append(cohort[1])
        clients.leave(cohort[1], trains)

    rounds.begins = {2: go, 3: lambda cohort: clients.gone(left[0]) and clients.come(*left)}
    rounds.ends = {3: lambda: clients.come(*come)}
    result, said = serve_clients(setting, tmp_path, clients, come[:6], [rounds])
    clients.end()
    run = result.output_dir
    assert f"too few clients of round 2 are left without {left[0]}: it begins anew" in said
    check_record(run, 4)
    assert len({name for _, cohort in lines(run, COUNTED) for name in cohort}) > 4
    assert not lines(run, LOST) and result.summary["missing"] == {} and result.summary["clients"] == 30
    assert [line["eval_rows"] > 0 for line in figures_of(run)] == [True] * 6
    assert all(sum(bool(one["eval_tokens"]) for one in line["clients"].values()) == 3
               for line in figures_of(run))  # fmt: skip
    assert {*json.loads((run / MEMBERS).read_text())} == {*come}
    assert adapter_of(replayed(setting, tmp_path, come, run / COHORTS)) == adapter_of(run)


def test_late_adapters_are_dropped_and_the_record_says_whose_counted(tmp_path: Path) -> None:
    """Of 8, 5 are drawn and 3 count; two of each round's first ones wait until it is over."""
    network = {"over_selection": 1.5, "min_clients": 8, "rejoin_seconds": 30.0}
    setting, come = registered_job(tmp_path, 30, 8, rounds=3, clients_per_round=3, network=network)
    clients, rounds, over = Clients(tmp_path), Rounds(), threading.Event()
    slow: list[str] = []

    def hold(cohort: list[str]) -> None:
        assert len(cohort) == 5
        slow.extend(cohort[:2])
        for name in slow:
            clients.hold(name, trains, over)

    rounds.begins, rounds.ends = {1: hold}, {1: over.set}
    result, said = serve_clients(setting, tmp_path, clients, come, [rounds])
    clients.end()
    run = result.output_dir
    check_record(run, 3)
    first = dict(lines(run, COUNTED))[1]
    assert not {*slow} & {*first} and "2 clients were drawn and came too late" in said
    assert not lines(run, LOST) and "expelled" not in said
    assert adapter_of(replayed(setting, tmp_path, come, run / COHORTS)) == adapter_of(run)


def test_a_resumed_round_is_of_the_clients_that_it_was_of(tmp_path: Path) -> None:
    """The server ends in round 3; those that come then are more, and fewer of the others."""
    network = {"rejoin_seconds": 60.0}
    setting, come = registered_job(tmp_path, 30, 8, clients_per_round=4, network=network)
    clients, rounds = Clients(tmp_path), Rounds()

    def crash() -> None:
        raise RuntimeError("the server ends")

    rounds.steps = {3: crash}
    with pytest.raises(JobError, match="failed in on_step_end"):
        serve_clients(setting, tmp_path, clients, come[:7], [rounds])
    clients.end()
    wanted = rounds.cohorts[-1]
    assert wanted[0] == 3 and dict(lines(tmp_path / "run", DRAWN))[3] == wanted[1]
    clients, again = Clients(tmp_path), Rounds()
    later = [*wanted[1], *[name for name in come if name not in wanted[1]][::2]]
    result, _ = serve_clients(setting, tmp_path, clients, later[:6], [again], resume=True)
    clients.end()
    assert again.cohorts[0] == wanted and not lines(result.output_dir, LOST)
    check_record(result.output_dir, 4)
    record = result.output_dir / COHORTS
    assert adapter_of(replayed(setting, tmp_path, come, record)) == adapter_of(result.output_dir)


def test_a_resumed_round_is_of_others_where_one_does_not_come(tmp_path: Path) -> None:
    setting, come = registered_job(tmp_path, 30, 8, clients_per_round=4, rounds=2)
    clients, rounds = Clients(tmp_path), Rounds()

    def crash() -> None:
        raise RuntimeError("the server ends")

    rounds.steps = {2: crash}
    with pytest.raises(JobError, match="failed in on_step_end"):
        serve_clients(setting, tmp_path, clients, come[:6], [rounds])
    clients.end()
    lacks = rounds.cohorts[-1][1][0]
    clients, again = Clients(tmp_path), Rounds()
    there = [name for name in come if name != lacks]
    result, _ = serve_clients(setting, tmp_path, clients, there, [again], resume=True)
    clients.end()
    assert lacks not in again.cohorts[0][1]
    check_record(result.output_dir, 4)
    record = result.output_dir / COHORTS
    assert adapter_of(replayed(setting, tmp_path, come, record)) == adapter_of(result.output_dir)


def test_a_client_hears_no_other_name_however_many_there_are(tmp_path: Path) -> None:
    setting, come = registered_job(tmp_path, 10_000, 4, clients_per_round=2, rounds=1)
    clients, welcomes = Clients(tmp_path), list[Any]()

    class Listens(Callback):
        def on_round_begin(self, *given: Any) -> None:
            if not welcomes:  # a registered client without any data
                dialler = Dialler(clients.address, None, "site-00001", "", MAX_PAYLOAD)
                welcomes.append(dialler.incoming.get(timeout=30))
                dialler.close(0)

    result, said = serve_clients(setting, tmp_path, clients, come, [Listens()])
    clients.end()
    (welcome,) = welcomes
    assert isinstance(welcome, Welcome) and "site-" not in welcome.job and "clients.txt" not in welcome.job
    assert json.loads(welcome.job)["clients"] == 10_000 and len(welcome.job) < 2000
    assert "site-00019 and 9980 more" in said
    assert (result.output_dir / KEPT).read_text().count("\n") == 10_000
    wrong: Settings = setting | {"rounds": 2}
    (tmp_path / "clients.txt").write_text("another\n" + (tmp_path / "clients.txt").read_text())
    with pytest.raises(JobError, match="names may be added at the end only"):
        serve_clients(wrong, tmp_path, clients, [], resume=True)

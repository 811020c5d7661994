"""Secure aggregation over real connections: sums alone reach the server, whoever is lost in what phase."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cases import rest_slow
from history_checker import check_history, read_steps
from network_threads import QUIET, Settings, Tamper, three_sites, together
from ports import free_port
from splitft import Job, run
from splitft.engines.network import site
from splitft.engines.network import sum_messages as sums
from splitft.engines.network.client_sums import ClientSums
from splitft.engines.network.sum_record import SumRecord
from splitft.errors import DivergedError, NetworkError
from splitft.lora.summed import numbers_of
from splitft.round import sample_members
from splitft.running.aggregator import serve_averages
from splitft.wire.messages import AdapterUp
from tcp_proxy import Proxy

NAMES = ["anna", "bert", "cleo", "dora", "emil"]
ERROR = 1e-6  # of an adapter's value: the fixed point's, and float32's
# Long enough for all to come before the first round, however busy the machine.
PATIENT = {"clients": NAMES, "min_clients": 4, "rejoin_seconds": 15.0}
WINDOW = 64  # bytes of an adapter that are looked for
MODES: dict[str, Settings] = {
    "as it comes": {},
    "freeze_a, fedadam": {"aggregation": "freeze_a", "server_optimizer": "fedadam"},
    "some clients, in turns": {"clients_per_round": 3, "order": "turns", "rounds": 3},
    "a server without weights": {"network": {"clients": NAMES, "probe": False}},
    "rslora, sgd": {"use_rslora": True, "optim": "sgd", "learning_rate": 0.05},
    "dora": {"adapter_name_or_path": None, "use_dora": True},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("sums")
    own = {"method": "fed_lora", "labels": "server", "cuts": 1, "eval_every": 1, "robust_aggregation": "none"}
    return three_sites(folder, NAMES, **own, secure_aggregation=True)


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def alone(setting: Settings, folder: Path, names: list[str] = NAMES, **changes: Any) -> Path:
    """Run a job of these clients in one process."""
    files = {name: setting["data_files"][name] for name in names}
    setting = {key: value for key, value in setting.items() if key != "network"} | {"data_files": files}
    run(Job(**setting | changes, output_dir=str(folder)), console=QUIET)
    return folder


def same_bits(one: Path, other: Path) -> bool:
    name = "adapter/adapter_model.safetensors"
    return (one / name).read_bytes() == (other / name).read_bytes()


def bytes_of(folder: Path) -> list[dict[str, Any]]:
    """The bytes of each round, by direction and kind."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    found = [{key: value for key, value in line.items() if key.startswith("bytes")} for line in lines]
    assert all(found)
    return found


def apart(one: Path, other: Path) -> float:
    """The largest difference of two adapters' values."""
    mine, theirs = adapter_of(one), adapter_of(other)
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


@pytest.mark.parametrize("mode", rest_slow(MODES, 1))
def test_the_same_bits_as_in_one_process(mode: str, setting: Settings, tmp_path: Path) -> None:
    setting = setting | MODES[mode]
    folder = together(setting, tmp_path)
    assert same_bits(folder, alone(setting, tmp_path / "one"))
    assert bytes_of(folder) == bytes_of(tmp_path / "one"), "the ledger counts masked adapters as adapters"
    check_history(folder, Job(**setting | {"clients": len(NAMES)}))
    done = [line for line in read_steps(folder) if line["event"] == "sum"]
    assert [line["round"] for line in done] == list(range(1, setting["rounds"] + 1))
    assert all(line["summed"] == line["clients"] and line["attempt"] == 1 for line in done)


def test_the_average_is_the_plain_one_but_for_rounding(setting: Settings, tmp_path: Path) -> None:
    masked = alone(setting, tmp_path / "masked", rounds=1)
    plain = alone(setting, tmp_path / "plain", rounds=1, secure_aggregation=False)
    assert 0 < apart(masked, plain) < ERROR


PHASES = {
    "keys": sums.KeysStated, "shares": sums.SharesSealed, "masked": AdapterUp,
    "signed": sums.SurvivorsSigned, "revealed": sums.SharesRevealed,
}  # fmt: skip


def lost_before(kind: type) -> Tamper:
    """A client that ends where it would send a message of this kind."""

    def tamper(message: Any) -> list[Any]:
        if isinstance(message, kind):
            raise NetworkError("lost")
        return [message]

    return tamper


def garbled(kind: type) -> Tamper:
    """A client that sends what cannot be read in the place of a message of this kind, and is expelled."""
    return lambda message: [b"\0" if isinstance(message, kind) else message]


def check_without_one(phase: str, setting: Settings, tamper: Tamper, folder: Path) -> None:
    """The average is that of the clients whose masked updates came: without cleo, if it ended before."""
    setting = setting | {"rounds": 1}
    run_folder = together(setting, folder, tamper={"cleo": tamper})
    in_sum = NAMES if phase in ("signed", "revealed") else [name for name in NAMES if name != "cleo"]
    (done,) = [line for line in read_steps(run_folder) if line["event"] == "sum"]
    assert sorted(done["summed"]) == in_sum and done["attempt"] == 1
    wanted = alone(setting, folder / "plain", in_sum, secure_aggregation=False)
    assert apart(run_folder, wanted) < ERROR
    check_history(run_folder, Job(**setting | {"clients": len(NAMES)}))
    other = NAMES if in_sum != NAMES else NAMES[:4]
    alone(setting, folder / "other", other, secure_aggregation=False)
    assert apart(run_folder, folder / "other") > 100 * ERROR, "the comparison can fail"


@pytest.mark.parametrize("phase", rest_slow(PHASES, ["revealed"]))
def test_one_of_five_is_expelled_in_each_phase(phase: str, setting: Settings, tmp_path: Path) -> None:
    check_without_one(phase, setting, garbled(PHASES[phase]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_one_of_five_is_lost_in_each_phase(phase: str, setting: Settings, tmp_path: Path) -> None:
    check_without_one(phase, setting | {"network": PATIENT}, lost_before(PHASES[phase]), tmp_path)


def test_below_the_threshold_another_sum_is_begun(setting: Settings, tmp_path: Path) -> None:
    """Two of five are out at once, four are needed: three mask their updates again, with new keys."""
    setting = setting | {"rounds": 1}
    folder = together(setting, tmp_path, tamper=dict.fromkeys(["bert", "dora"], garbled(AdapterUp)))
    (done,) = [line for line in read_steps(folder) if line["event"] == "sum"]
    assert sorted(done["summed"]) == ["anna", "cleo", "emil"] and done["attempt"] == 2
    wanted = alone(setting, tmp_path / "plain", ["anna", "cleo", "emil"], secure_aggregation=False)
    assert apart(folder, wanted) < ERROR


@pytest.mark.slow
def test_a_round_that_is_short_of_clients_begins_anew(setting: Settings, tmp_path: Path) -> None:
    """One of the round's four is lost, four are needed, and the fifth is there: the round takes all four."""
    setting = setting | {"network": PATIENT, "rounds": 1, "clients_per_round": 4}
    lost = sample_members(Job(**setting), NAMES, 1)[0]
    folder = together(setting, tmp_path, tamper={lost: lost_before(AdapterUp)})
    (done,) = [line for line in read_steps(folder) if line["event"] == "sum"]
    others = [name for name in NAMES if name != lost]
    assert sorted(done["summed"]) == others
    wanted = alone(setting, tmp_path / "one", others, clients_per_round=None)
    assert same_bits(folder, wanted)


def test_numbers_that_no_steps_make_are_rolled_back(setting: Settings, tmp_path: Path) -> None:
    """Nobody can see whose they were: the adapter stays as it was."""

    def absurd(message: Any) -> list[Any]:
        if isinstance(message, AdapterUp):
            message = replace(message, values=tuple(values + (1 << 28) for values in message.values))
        return [message]

    folder = together(setting | {"rounds": 1}, tmp_path, tamper={"dora": absurd})
    before = load_file(Path(setting["adapter_name_or_path"]) / "adapter_model.safetensors")
    after = adapter_of(folder)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_change_beyond_the_range_ends_a_client(setting: Settings, tmp_path: Path) -> None:
    narrow = setting | {"rounds": 1, "secure_aggregation_range": 1e-4}
    with pytest.raises(DivergedError, match="or raise secure_aggregation_range"):
        alone(narrow, tmp_path / "one")
    said: list[str] = []
    with pytest.raises((DivergedError, NetworkError), match="its own output says why"):
        together(narrow, tmp_path, tamper=dict.fromkeys(NAMES, lambda message: [message]), said=said)


def test_two_clients_that_are_left_make_no_sum(setting: Settings, tmp_path: Path) -> None:
    files = {name: setting["data_files"][name] for name in NAMES[:3]}
    setting = setting | {"data_files": files, "rounds": 1}
    tamper: dict[str, Tamper] = dict.fromkeys(NAMES[:3], lambda message: [message])
    tamper["bert"] = garbled(sums.KeysStated)
    with pytest.raises(NetworkError, match="2 clients of round 1 are left, and a sum is of 3 at least"):
        together(setting, tmp_path, tamper=tamper)


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[AdapterUp, list[torch.Tensor]]]:
    """What every client trained in every round, and the numbers that it would add, unmasked."""
    found: list[tuple[AdapterUp, list[torch.Tensor]]] = []

    def remember(update: AdapterUp, *args: Any, **keys: Any) -> list[torch.Tensor]:
        numbers = numbers_of(update, *args, **keys)
        copies = tuple(values.clone() for values in update.values)
        found.append((AdapterUp(update.round, update.blocks, copies), [one.clone() for one in numbers]))
        return numbers

    monkeypatch.setattr("splitft.engines.network.client_sums.numbers_of", remember)
    return found


def needles(values: list[torch.Tensor]) -> Iterator[bytes]:
    """Windows of values that are not all alike."""
    data = torch.cat(values).numpy().tobytes()
    for start in range(0, len(data) - WINDOW, WINDOW):
        window = data[start : start + WINDOW]
        if len(set(window)) > WINDOW // 4:
            yield window


@pytest.mark.parametrize("aggregator", rest_slow([False, True], [True]))
def test_no_update_of_a_client_crosses(
    aggregator: bool,
    setting: Settings,
    tmp_path: Path,
    updates: list[tuple[AdapterUp, list[torch.Tensor]]],
) -> None:
    """Neither as it was trained nor as fixed-point numbers: in no byte of a connection, in no checkpoint."""
    port, proxies = free_port(), list[Proxy]()
    network: Settings = {"clients": NAMES}
    if aggregator:
        proxies.append(Proxy(port, capture=True))
        network["aggregator"] = f"127.0.0.1:{proxies[0].port}"

    def port_for(name: str, server_port: int) -> int:
        proxies.append(Proxy(server_port, capture=True))
        return proxies[-1].port

    setting = setting | {"network": network}
    with ThreadPoolExecutor(1) as pool:
        if aggregator:
            job, kept = Job(**setting, output_dir=str(tmp_path / "unused")), tmp_path / "aggregator"
            ended = pool.submit(serve_averages, job, f"127.0.0.1:{port}", folder=kept, console=QUIET)
        folder = together(setting, tmp_path, port_for=port_for)
        if aggregator:
            ended.result(30)
    assert same_bits(folder, alone(setting, tmp_path / "one"))
    assert len(updates) == len(NAMES) * 2
    seen = [bytes(way) for proxy in proxies for way in (proxy.captured or {}).values()]
    seen += [path.read_bytes() for path in sorted((folder / "checkpoints").rglob("*.safetensors"))]
    assert sum(map(len, seen)) > 100_000
    for update, numbers in updates:
        for values in (list(update.values), numbers):
            windows = list(needles(values))
            assert len(windows) > 100
            assert not any(window in place for window in windows for place in seen)
    for proxy in proxies:
        proxy.close()


def test_without_it_the_search_finds_every_update(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[AdapterUp] = []
    handed_in = site._handed_in

    def remember(desk: Any, update: AdapterUp) -> Any:
        found.append(update)
        return handed_in(desk, update)

    monkeypatch.setattr(site, "_handed_in", remember)
    proxies = list[Proxy]()

    def port_for(name: str, server_port: int) -> int:
        proxies.append(Proxy(server_port, capture=True))
        return proxies[-1].port

    together(setting | {"secure_aggregation": False}, tmp_path, port_for=port_for)
    seen = [bytes(way) for proxy in proxies for way in (proxy.captured or {}).values()]
    assert len(found) == len(NAMES) * 2
    for update in found:
        windows = list(needles(list(update.values)))
        assert sum(any(window in place for place in seen) for window in windows) > 0.9 * len(windows)
    for proxy in proxies:
        proxy.close()


@pytest.mark.slow
def test_an_update_enters_sums_with_the_same_clients_only(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sums a round with all, and then without one, gets no second sum."""
    answer = ClientSums.answer
    asked: list[str] = []

    def with_a_history(self: ClientSums, request: Any, client: Any) -> Any:
        """As if this update had been summed with others before."""
        told = answer(self, request, client)
        if isinstance(request, sums.KeysAsked) and self.name == "emil":
            self.record.keep(self._update, ("anna", "bert", "emil"))
        if isinstance(request, sums.SurvivorsAsked):
            asked.append(self.name)
        return told

    monkeypatch.setattr(ClientSums, "answer", with_a_history)
    said: list[str] = []
    setting = setting | {"network": PATIENT, "rounds": 1}
    together(setting, tmp_path, tamper={"emil": lambda message: [message]}, said=said)
    assert "was summed with those of anna, bert, emil" in said[0]
    assert "emil" not in asked and len(asked) == 4


def test_the_record_keeps_the_clients_of_each_sum(tmp_path: Path) -> None:
    record = SumRecord(tmp_path / "anna")
    assert record.find("a" * 64) == ()
    record.keep("a" * 64, ("emil", "anna", "cleo"))
    record.keep("b" * 64, ("anna", "bert", "cleo"))
    assert SumRecord(tmp_path / "anna").find("a" * 64) == ("anna", "cleo", "emil")

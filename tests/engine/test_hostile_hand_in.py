"""A client that lies to the aggregator is out; the others have the bits of a run in which it never was."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cases import rest_slow
from network_threads import QUIET, Settings, three_sites, together
from ports import free_port
from splitft import Job, run
from splitft.engines.network.control import HandIn, packed
from splitft.engines.network.desk import Desk
from splitft.running.aggregator import serve_averages
from splitft.running.client_setup import ClientSetup
from splitft.wire.messages import AdapterUp

NAMES = ["anna", "bert", "mallory"]
MALLORY = 2


def moved(update: AdapterUp, by: float) -> AdapterUp:
    return replace(update, values=tuple(values + by for values in update.values))


class LyingDesk(Desk):
    """Hands in what it likes. lie: returns what it states, and what it hands in after its own update."""

    lie: Callable[[AdapterUp], tuple[AdapterUp, AdapterUp | bytes | None]]

    def hand_in(self, update: AdapterUp) -> AdapterUp:
        own, other = type(self).lie(update)
        stated = super().hand_in(own)
        if isinstance(other, AdapterUp):
            ticket = stated.values[1]
            other = packed(HandIn(ticket, other.round, other.blocks, other.values))
        if other is not None:
            self._dialler.repeat(other)
        return replace(stated, round=update.round)


ANOTHER = "it handed in another update to the aggregator than it stated"
# What is stated, what is handed in after it, and a part of the reason for which its client is expelled.
LIES: dict[str, tuple[Callable[[AdapterUp], Any], str]] = {
    "another update": (lambda u: (u, moved(u, 1e-4)), ANOTHER),
    "another round's": (lambda u: (replace(u, round=2), None), "an update of round 2 in round 1"),
    "adapters that no steps can make": (lambda u: (moved(u, 0.5), None), "beyond what 2 steps"),
    "fewer blocks": (
        lambda u: (replace(u, blocks=u.blocks[1:], values=u.values[1:]), None), "it handed in blocks: "
    ),
    "NaN": (lambda u: (moved(u, float("nan")), None), "values: its values are not finite"),
    "noise": (lambda u: (u, b"\xff" * 99), "the aggregator refuses what it handed in, and says: "),
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "per_client": {},
    "shared": {"server_adapter": "shared"},
    "shared, in turns": {"server_adapter": "shared", "order": "turns", "cuts": [1, 2, 1]},
    "two holders": {"cuts": [1, 1, 2]},
    "shared, two holders, labels at home": {
        "server_adapter": "shared", "cuts": [1, 1, 2], "labels": "client", "tail_blocks": 1
    },
}  # fmt: skip
CASES = [(lie, form) for lie in LIES for form in FORMS]
QUICK = [("adapters that no steps can make", "shared")]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("desk")
    return three_sites(folder, NAMES, eval_every=2, labels="server")


@pytest.mark.parametrize(("lie", "form"), rest_slow(CASES, QUICK))
def test_a_client_that_lies_to_the_aggregator_is_out(
    lie: str, form: str, setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = setting | FORMS[form]
    files = {name: setting["data_files"][name] for name in NAMES[:MALLORY]}
    honest = setting | {"data_files": files, "cuts": setting["cuts"][:MALLORY]}
    run(Job(**honest, output_dir=str(tmp_path / "local")), console=QUIET)

    # One client's desk lies, from round 1 on.
    desk = type("Its", (LyingDesk,), {"lie": staticmethod(LIES[lie][0])})

    def open_desk(setup: ClientSetup, on_end: Any) -> Desk:
        assert setup._told is not None
        dial = setup.dial(setup._told[0].network.aggregator or "")
        return (desk if setup.name == NAMES[MALLORY] else Desk)(dial, on_end)

    monkeypatch.setattr(ClientSetup, "open_desk", open_desk)
    address = f"127.0.0.1:{free_port()}"
    network = {"clients": NAMES, "min_clients": 2, "rejoin_seconds": 5, "aggregator": address}
    apart, out = setting | {"network": network}, io.StringIO()
    with ThreadPoolExecutor(1) as pool:
        job = Job(**apart, output_dir=str(tmp_path / "unused"))
        ended = pool.submit(serve_averages, job, address, folder=tmp_path / "aggregator", console=QUIET)
        told: list[str] = []
        tamper = {NAMES[MALLORY]: lambda message: [message]}
        folder = together(apart, tmp_path, tamper, told, console=Console(file=out, width=10_000))
        ended.result(30)
    expelled = [line for line in out.getvalue().splitlines() if "is expelled" in line]
    assert len(expelled) == 1 and f"{NAMES[MALLORY]} is expelled: " in expelled[0], expelled
    assert LIES[lie][1] in expelled[0] and "aggregator" in expelled[0]
    assert not (folder / "faults.log").exists()
    folders = folder, tmp_path / "local"
    got, wanted = (load_file(at / "adapter" / "adapter_model.safetensors") for at in folders)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())

"""A hostile client ends its own part and nobody else's: the ways of `hostile_client` against a real server.

Where it is expelled, the honest ones end with the bits of a run in which it never was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cases import rest_slow
from hostile_client import LABELS, TRUNKS, WAYS
from network_threads import Settings, three_sites, together
from splitft import Job, run
from splitft.errors import NetworkError
from splitft.server import answers
from splitft.tools.report.page import render_page
from splitft.tools.report.runs import read_run

QUIET = Console(quiet=True)
NAMES = ["anna", "bert", "mallory"]
CASES = [(way, labels, trunk) for way, its in WAYS.items() for labels in its.labels for trunk in its.trunks]
QUICK = [
    ("absurd adapters", "server", "shared"),
    ("adapters that do harm", "client", "per_client"),
]
Adapters = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("hostile")
    return three_sites(
        folder, NAMES, eval_every=1, network={"clients": NAMES, "min_clients": 2, "rejoin_seconds": 5}
    )


@pytest.fixture(scope="module")
def without(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Adapters]:
    """Return the adapter of the run in one process that mallory never was in."""
    made: dict[str, Adapters] = {}

    def adapter(changes: dict[str, Any]) -> Adapters:
        if repr(changes) not in made:
            folder = tmp_path_factory.mktemp("honest") / "run"
            files = {name: path for name, path in setting["data_files"].items() if name != "mallory"}
            cuts = changes.get("cuts", setting["cuts"])
            own = {"data_files": files, "cuts": cuts[:2] if isinstance(cuts, list) else cuts}
            own["network"] = {"clients": NAMES[:2]}
            run(Job(**setting | changes | own, output_dir=str(folder)), console=QUIET)
            made[repr(changes)] = load_file(folder / "adapter" / "adapter_model.safetensors")
        return made[repr(changes)]

    return adapter


@pytest.mark.parametrize(("way", "labels", "trunk"), rest_slow(CASES, QUICK))
def test_a_hostile_client_ends_its_own_part_alone(
    way: str,
    labels: str,
    trunk: str,
    setting: Settings,
    without: Callable[..., Adapters],
    tmp_path: Path,
) -> None:
    hostile, said = WAYS[way], list[str]()
    changes = LABELS[labels] | TRUNKS[trunk] | hostile.job
    folder = together(setting | changes, tmp_path, {"mallory": hostile.make()}, said)
    assert not (folder / "faults.log").exists()  # a check refused it: nothing was raised
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["perplexity"] < 1.2 * summary["perplexity_before"]
    own = {"perplexity", "accuracy", "perplexity_before", "client_versions"}
    assert own & set(summary["self_reported"]) == (own if labels == "client" else {"client_versions"})
    page = render_page([read_run(folder)], files=False) if way == "hours of computing" else ""
    assert ("are self-reported" in page) == (bool(page) and labels == "client")
    if hostile.reason is None:
        assert said == ["the run is complete"]
        return
    assert re.search(hostile.reason, said[0]), said
    got, wanted = load_file(folder / "adapter" / "adapter_model.safetensors"), without(changes)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["absurd adapters", "adapters that do harm"])
def test_a_run_that_loses_its_quorum_ends_with_one_line(way: str, setting: Settings, tmp_path: Path) -> None:
    hostile = WAYS[way]
    changes = LABELS["client"] | hostile.job | {"network": setting["network"] | {"min_clients": 3}}
    with pytest.raises(NetworkError) as told:
        together(setting | changes, tmp_path, {"mallory": hostile.make()})
    line = str(told.value)
    assert "2 of 3 clients are left, network.min_clients is 3 (mallory is expelled: " in line
    assert "\n" not in line and not (tmp_path / "run" / "faults.log").exists()


FORMS = {
    "one trunk for each": {},
    "a shared trunk": TRUNKS["shared"],
    "labels at home, a shared trunk": LABELS["client"] | TRUNKS["shared"],
    "several clients at once": {"server_batch_tokens": 4096},
}


@pytest.mark.parametrize("form", rest_slow(FORMS, ["a shared trunk"]))
def test_a_step_that_raises_for_one_client_is_repeated_without_it(
    form: str,
    setting: Settings,
    without: Callable[..., Adapters],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error planted into the server's step, as a message could raise that passed every check."""
    for name in ("trunk_step", "step_from_tail"):
        step = getattr(answers, name)

        def planted(model: Any, given: Any, *rest: Any, step: Any = step, **options: Any) -> Any:
            places = [part.place for part in (given if isinstance(given, list) else [given.part])]
            if any(place.client == "mallory" and place.step for place in places):
                raise RuntimeError("a planted fault")
            return step(model, given, *rest, **options)

        monkeypatch.setattr(answers, name, planted)
    said: list[str] = []
    changes = LABELS["server"] | FORMS[form]
    folder = together(setting | changes, tmp_path, {"mallory": lambda message: [message]}, said)
    assert said == ["what it sent could not be processed (RuntimeError)"]
    assert "RuntimeError: a planted fault" in (folder / "faults.log").read_text()
    got, wanted = load_file(folder / "adapter" / "adapter_model.safetensors"), without(changes)
    assert got.keys() == wanted.keys()
    same = torch.allclose if "server_batch_tokens" in changes else torch.equal  # the order of sums varies
    assert all(same(got[name], tensor) for name, tensor in wanted.items())

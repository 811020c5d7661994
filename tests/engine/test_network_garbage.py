"""A client that sends garbage takes part no more, and the others train on as if it had never been there.

Server and clients are threads here, over real connections on loopback.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cases import rest_slow
from network_threads import Settings, Tamper, together
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.engines.network.control import EVALUATION, Held, Saved, Started
from splitft.wire.messages import (
    Activations,
    AdapterUp,
    Gradients,
    HeldOut,
    Metrics,
    OptimizerState,
    TailGradients,
)

QUIET = Console(quiet=True)
NAMES = ["anna", "bert", "mallory"]
SUMS = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([4.0, 6.0])


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("garbage")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=30, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=4) | {
        "data_files": files, "rounds": 2, "local_steps": 2, "cuts": [1, 2, 2], "labels": "server",
        "max_eval_samples": None, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "warmup_steps": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def without(
    setting: Settings, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, torch.Tensor]]:
    """The adapter of the run in one process that mallory never was in, by where the labels are."""
    files = {name: path for name, path in setting["data_files"].items() if name != "mallory"}
    made = {}
    for labels, tail in (("server", 0), ("client", 1)):
        folder = tmp_path_factory.mktemp("honest") / "run"
        changes = {"data_files": files, "cuts": [1, 2], "labels": labels, "tail_blocks": tail}
        changes["network"] = {"clients": NAMES[:2]}
        run(Job(**setting | changes, output_dir=str(folder)), console=QUIET)
        made[labels] = load_file(folder / "adapter" / "adapter_model.safetensors")
    return made


def poison(tensor: torch.Tensor, value: float) -> torch.Tensor:
    poisoned = tensor.clone()
    poisoned.view(-1)[0] = value
    return poisoned


def on(kind: type, change: Callable[[Any], Any]) -> Tamper:
    """Change the messages of one kind, in training."""
    return lambda message: [change(message) if isinstance(message, kind) else message]


def field(kind: type, name: str, change: Callable[[Any], Any]) -> Tamper:
    return on(kind, lambda message: replace(message, **{name: change(getattr(message, name))}))


GARBAGE: dict[str, tuple[Tamper, str]] = {
    "NaN": (field(Activations, "hidden", lambda t: poison(t, float("nan"))), "hidden: .*finite"),
    "infinity": (field(Activations, "hidden", lambda t: poison(t, float("-inf"))), "hidden: .*finite"),
    "1e38": (field(Activations, "hidden", lambda t: poison(t, 1e38)), "hidden: .*too large"),
    "a row too few": (field(Activations, "hidden", lambda t: t[1:]), "hidden: shape"),
    "one number": (field(Activations, "hidden", lambda t: torch.ones(1)), "hidden: shape"),
    "integers": (field(Activations, "hidden", lambda t: t.to(torch.int32)), "hidden: .*int32"),
    "no labels": (field(Activations, "labels", lambda t: None), "labels"),
    "labels of no token": (field(Activations, "labels", lambda t: t + 10**6), "labels: an id"),
    "long labels": (field(Activations, "labels", lambda t: t.long()), "labels: .*int64"),
    "1e12 tokens": (field(Activations, "lengths", lambda n: (10**12,)), "lengths"),
    "no tokens": (field(Activations, "lengths", lambda n: ()), "lengths"),
    "tokens with loss": (field(Activations, "loss_tokens", lambda n: 10**12), "loss_tokens"),
    "another step": (field(Activations, "step", lambda n: n + 1), "Activations.step"),
    "another round": (field(Activations, "round", lambda n: n + 1), "Activations.round"),
    "training where evaluated": (field(Activations, "train", lambda b: not b), "Activations.train"),
    "twice the same": (lambda m: [m, m] if isinstance(m, Activations) else [m], "Activations came"),
    "what nobody asked for": (
        on(Activations, lambda m: TailGradients(m.round, 0, 0, 0.0, 1, m.hidden)), "gradient: shape"
    ),
    "a server's message": (on(Activations, lambda m: Gradients(1, 0, 0, 0.0, m.hidden)), "nothing that"),
    "own metrics": (on(Activations, lambda m: Metrics(0, 0.0, 0.0, 10, 0.0, 10, *SUMS)), "Metrics came"),
    "metrics without rows": (on(Activations, lambda m: Metrics(0, 0.0, 0.0, 10, 0.0, 10)), "row_nll"),
    "rows that do not add up": (
        on(Activations, lambda m: Metrics(0, 5.0, 0.0, 10, 0.0, 10, *SUMS)), "row_nll: they add up to"
    ),
    "NaN metrics": (on(Activations, lambda m: Metrics(0, float("nan"), 0.0, 10, 0.0, 10)), "nll"),
    "ids of no token": (field(HeldOut, "input_ids", lambda t: t + 10**6), "input_ids: an id"),
    "long ids": (field(HeldOut, "input_ids", lambda t: t.long()), "input_ids: .*int64"),
    "ids too many": (lambda m: [m, m] if isinstance(m, HeldOut) else [m], "HeldOut came|HeldOut.step"),
    "NaN adapters": (
        field(AdapterUp, "values", lambda v: (poison(v[0], float("nan")), *v[1:])), "values: .*finite"
    ),
    "adapters of all blocks": (field(AdapterUp, "blocks", lambda b: (*b, 3)), "blocks"),
    "wide adapters": (field(AdapterUp, "values", lambda v: tuple(t.repeat(2) for t in v)), "values"),
    "NaN norms": (field(AdapterUp, "grad_norms", lambda t: poison(t, float("nan"))), "grad_norms"),
    "few norms": (field(AdapterUp, "grad_norms", lambda t: t[:1]), "grad_norms"),
    "what only saving asks for": (
        lambda m: [m, Saved(9)] if m == Started(0, EVALUATION) else [m], "Saved came in the middle"
    ),
    "no message": (on(Activations, lambda m: b"\xff" * 100), "header"),
    "an empty message": (on(Activations, lambda m: b""), "shorter"),
    "a pickle": (on(Activations, lambda m: b"\x80\x04\x95\x10\x00\x00\x00cos\nsystem\n."), "header"),
}  # fmt: skip


QUICK = [
    "NaN", "1e12 tokens", "twice the same", "wide adapters",
]  # fmt: skip


@pytest.mark.parametrize("kind", rest_slow(GARBAGE, QUICK))
def test_garbage_is_refused_and_the_others_go_on(
    kind: str,
    setting: Settings,
    without: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    tamper, reason = GARBAGE[kind]
    said: list[str] = []
    place = {} if " ids" in f" {kind}" else {"server_evaluates": False}
    folder = together(setting | place, tmp_path, {"mallory": tamper}, said)
    assert re.search(reason, said[0]), said
    got = load_file(folder / "adapter" / "adapter_model.safetensors")
    wanted = without["server"]
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())


def test_honest_clients_with_data_of_their_own_make_the_run_in_one_process(
    setting: Settings, tmp_path: Path
) -> None:
    run(Job(**setting, output_dir=str(tmp_path / "one")), console=QUIET)
    folder = together(setting, tmp_path)
    one, other = (
        (path / "adapter" / "adapter_model.safetensors").read_bytes() for path in (tmp_path / "one", folder)
    )
    assert one == other


def test_state_of_an_optimizer_whose_state_does_not_move_is_refused(
    setting: Settings, tmp_path: Path
) -> None:
    """Moments in the place of SGD's momentum: a trunk that took them over could not step with them."""
    moves = {"cut_policy": {"method": "schedule", "schedule": {"1": [1, 2, 3], "2": [1, 2, 2]}}}
    job = setting | moves | {"optim": "sgd", "optim_args": "momentum=0.9", "cuts": [1, 2, 3]}
    moments = torch.ones(1000)
    tamper = on(Held, lambda m: OptimizerState(m.round, (2,), (1,), (moments,)) if m.round == 2 else m)
    said: list[str] = []
    together(job, tmp_path, {"mallory": tamper}, said)
    assert "moved: the state of optimizer sgd stays where it is" in said[0]

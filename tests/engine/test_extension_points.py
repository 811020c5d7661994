"""Pieces of a user's own, as docs/extending.md has them: in runs and over a network; and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import splitft
from cases import rest_slow
from forks import run_command, start_command
from ports import free_port
from reference import make_setting
from site_files import write_open_policy
from splitft import (
    DeviceProfile,
    Job,
    JobError,
    register_aggregation,
    register_device,
    register_method,
    register_metric,
    register_objective,
    register_optimizer,
    register_partition,
    register_redactor,
    register_robust_rule,
    register_server_optimizer,
    run,
    testing,
)
from splitft.common.registry import Registry
from splitft.cuts.registry import CUT_POLICIES
from splitft.data.partition.registry import PARTITIONS
from splitft.data.redaction.registry import REDACTORS
from splitft.devices.registry import DEVICES
from splitft.job import dump_job
from splitft.lora.client_optimizer import OPTIMIZERS
from splitft.lora.objective import OBJECTIVES
from splitft.lora.rules import AGGREGATIONS, ROBUST_RULES
from splitft.lora.server_optimizer import SERVER_OPTIMIZERS
from splitft.model.metrics import METRICS
from splitft.running.callbacks import CALLBACKS
from splitft.running.methods import METHODS
from splitft.wire.codecs.registry import CODECS

Settings = dict[str, Any]
PIECES: dict[str, tuple[Registry[Any], str, Callable[[Any], None]]] = {
    "sorted_rows.py": (PARTITIONS, "sorted", testing.check_partition),
    "hide_places.py": (REDACTORS, "hide_places", testing.check_redactor),
    "deepen.py": (CUT_POLICIES, "deepen", testing.check_cut_policy),
    "half_codec.py": (CODECS, "half", testing.check_codec),
    "equal_votes.py": (AGGREGATIONS, "equal_votes", testing.check_aggregation),
    "nearest_to_mean.py": (ROBUST_RULES, "nearest_to_mean", testing.check_robust_rule),
    "halfway.py": (SERVER_OPTIMIZERS, "halfway", testing.check_server_optimizer),
    "small_adapters.py": (OBJECTIVES, "small_adapters", testing.check_objective),
    "signs.py": (OPTIMIZERS, "signs", testing.check_optimizer),
    "entropy.py": (METRICS, "entropy", testing.check_metric),
    "tablet.py": (DEVICES, "tablet", testing.check_device),
    "loss_lines.py": (CALLBACKS, "loss_lines", testing.check_callback),
    "half_and_half.py": (METHODS, "half_and_half", testing.check_method),
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_setting(tmp_path_factory.mktemp("own"), "llama", num_hidden_layers=6) | {
        "clients": 2, "rounds": 2, "local_steps": 2, "cuts": 1, "warmup_steps": 0, "labels": "server",
        "max_eval_samples": 4,
    }  # fmt: skip


def test_every_file_of_the_page_is_short_and_keeps_its_contract(plugins: Path) -> None:
    assert {path.name for path in plugins.glob("*.py")} == PIECES.keys()
    for name, (registry, piece, check) in PIECES.items():
        assert len((plugins / name).read_text().splitlines()) <= 40
        check(registry.find(piece))


def test_a_client_without_the_piece_says_which(plugins: Path, setting: Settings, tmp_path: Path) -> None:
    settings = setting | {"codec": "half", "network": {"clients": ["client-0"]}, "clients": 1}
    dump_job(Job(**settings, output_dir=str(tmp_path / "run")), tmp_path / "job.yaml")
    address = f"127.0.0.1:{free_port()}"
    plugin = ["--plugin", str(plugins / "half_codec.py")]
    server = start_command(
        ["server", tmp_path / "job.yaml", "--listen", address, *plugin], tmp_path / "server.log"
    )
    try:
        told = run_command(
            "client", "--server", address, "--name", "client-0", "--job-data", "--accept", "first",
            "--policy", write_open_policy(tmp_path), "--folder", tmp_path / "kept",
        )  # fmt: skip
    finally:
        server.kill()
        server.join()
    assert told.returncode == 2
    assert "codec: no codec is called half; " in told.stderr and "--plugin MODULE" in told.stderr
    assert "its own output says why" in (tmp_path / "server.log").read_text()


def shrunk(blocks: Any, _: Any) -> Any:
    return {name: tensor[:1] for name, tensor in blocks[0].items()}


def nans(keys: Any) -> Any:
    class Nans:
        def step(self, old: Any, average: Any, state: Any) -> Any:
            return {name: tensor / 0 for name, tensor in old.items()}, state

    return Nans()


WRONG: dict[str, tuple[Callable[..., Any], Any, Settings, str]] = {
    "rows of too few clients": (
        register_partition, lambda rows, clients, config, rng: [np.arange(3)],
        {"partition": {"method": "wrong"}}, "partition wrong must return the rows of 2 clients, it ret",
    ),
    "a row twice": (
        register_partition, lambda rows, clients, config, rng: [np.arange(3), np.arange(2, 5)],
        {"partition": {"method": "wrong"}}, "partition wrong gives row 2 to several clients, or twice",
    ),
    "spans beyond the text": (
        register_redactor, lambda text: [(0, len(text) + 1)],
        {"redact": {"function": "wrong"}}, r"redactor wrong failed: ValueError: .* does not lie in a text",
    ),
    "a redactor that fails": (
        register_redactor, lambda text: 1 / 0,
        {"redact": {"function": "wrong"}}, "redactor wrong failed: ZeroDivisionError",
    ),
    "rows that are none": (
        register_partition, lambda rows, clients, config, rng: [[0, 1], [2, 10**6]],
        {"partition": {"method": "wrong"}}, "partition wrong, client-1: rows must lie between 0 and",
    ),
    "a partition that fails": (
        register_partition, lambda rows, clients, config, rng: 1 / 0,
        {"partition": {"method": "wrong"}}, "partition wrong failed: ZeroDivisionError",
    ),
    "an average of fewer names": (
        register_aggregation, lambda blocks, weights: dict(list(blocks[0].items())[:1]),
        {"aggregation": "wrong"}, "aggregation wrong must return .*lora_B.* it returned",
    ),
    "an average of another shape": (
        register_aggregation, shrunk, {"aggregation": "wrong"}, "aggregation wrong: .* must have the shape",
    ),
    "an average that is no number": (
        register_aggregation, lambda blocks, weights: {n: t * torch.nan for n, t in blocks[0].items()},
        {"aggregation": "wrong"}, "aggregation wrong: .*lora_A.* must be finite",
    ),
    "a robust rule of other numbers": (
        register_robust_rule, lambda blocks, byzantine: {n: t.double() for n, t in blocks[0].items()},
        {"robust_aggregation": "wrong"}, "robust_aggregation wrong: .* must be a torch.float32 tensor, not",
    ),
    "a server optimizer whose answer is no number": (
        register_server_optimizer, nans, {"server_optimizer": "wrong"},
        r"server optimizer wrong: step must return new\['.*lora_A.*'\] finite, it returned",
    ),
    "an objective of the start alone": (
        register_objective, lambda values, start: next(iter(start.values())).sum(), {"objective": "wrong"},
        "objective wrong: it must return a scalar that depends on the values",
    ),
    "an optimizer that is none": (
        register_optimizer, lambda params, lr: 3, {"optim": "wrong"}, "must be a torch.optim.Optimizer, not",
    ),
    "a metric of another shape": (
        register_metric, lambda logits, labels: logits, {"metrics": ["wrong"]}, "metric wrong must return",
    ),
    "a metric that is no number": (
        register_metric, lambda logits, labels: logits[:, 0] / 0,
        {"metrics": ["wrong"]}, "metric wrong returned a value",
    ),
    "a method with an unknown key": (
        register_method, lambda job: {"cutz": 3}, {"method": "wrong"}, "method wrong: .*cutz",
    ),
    "a method of a method": (
        register_method, lambda job: {"method": "wrong"}, {"method": "wrong"}, "must run a built-in method",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", rest_slow(WRONG, 6))
def test_a_wrong_piece_is_told_what_was_expected(case: str, setting: Settings, tmp_path: Path) -> None:
    register, piece, changes, problem = WRONG[case]
    register("wrong", piece)
    with pytest.raises(JobError, match=problem) as told:
        run(Job(**setting | changes, output_dir=str(tmp_path / "run")), console=Console(quiet=True))
    assert len(str(told.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"partition": {"method": "sortd"}},
            "partition.method: no partition is called sortd; did you mean so",
        ),
        (
            {"aggregation": "by_rnk"},
            "aggregation: no aggregation rule is called by_rnk; did you mean",
        ),
        (
            {"robust_aggregation": "crum"},
            "robust_aggregation: no robust rule is called crum; did you mean",
        ),
        (
            {"server_optimizer": "fedadm"},
            "server_optimizer: no server optimizer is called fedadm; did you mean fedadam",
        ),
        ({"objective": "fedpox"}, "objective: no objective is called fedpox; did you mean fedprox"),
        ({"optim": "sdg"}, "optim: no optimizer is called sdg; did you mean sgd"),
        ({"metrics": ["entropie"]}, "metrics: no metric is called entropie; did you mean entropy"),
        ({"method": "splitfd"}, "method: no method is called splitfd; did you mean splitft"),
        ({"devices": "tablit"}, "devices: there is no device 'tablit'; did you mean tablet"),
    ],
)
def test_an_unknown_name_is_told_where_others_come_from(
    changes: Settings, problem: str, plugins: Path, setting: Settings, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as told:
        run(Job(**setting | changes, output_dir=str(tmp_path / "run")), console=Console(quiet=True))
    assert problem in str(told.value)
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_a_callback_with_an_event_that_does_not_exist_is_told() -> None:
    made = type("Mine", (splitft.Callback,), {"on_epoch_end": lambda self: None})
    with pytest.raises(AssertionError, match="no run calls on_epoch_end; its events are on_evaluate, on_log"):
        testing.check_callback(made)


def test_a_registered_device_may_start_from_another(plugins: Path) -> None:
    register_device("slow_tablet", DeviceProfile(preset="tablet", slowdown=4.0))
    testing.check_device(DeviceProfile(preset="slow_tablet"))
    with pytest.raises(JobError, match="must be a DeviceProfile"):
        register_device("x", lambda: None)  # type: ignore[arg-type]
    register_device("circle", DeviceProfile(preset="circle"))
    with pytest.raises(AssertionError, match="has itself as its preset"):
        testing.check_device(DeviceProfile(preset="circle"))

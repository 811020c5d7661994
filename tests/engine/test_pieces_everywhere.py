"""Pieces of a user's own in `run`, `compare`, `plan` and over a network; and those that break there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cases import rest_slow
from forks import run_command, start_command
from ports import free_port
from reference import make_setting, write_rows
from site_files import write_open_policy
from splitft import Job, JobError, register_method, run
from splitft.job import dump_job
from splitft.running.serve import serve

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_setting(tmp_path_factory.mktemp("own"), "llama", num_hidden_layers=6) | {
        "clients": 2, "rounds": 2, "local_steps": 2, "cuts": 1, "warmup_steps": 0, "labels": "server",
        "max_eval_samples": 4,
    }  # fmt: skip


NAMES = ["client-0", "client-1"]
ADAPTER = "adapter_model.safetensors"
# What a job names each piece in, and what one piece alone changes in a run.
ALONE: dict[str, tuple[Settings, str]] = {
    "sorted_rows.py": ({"partition": {"method": "sorted"}}, "adapter"),
    "hide_places.py": ({"redact": {"function": "hide_places"}}, "adapter"),
    "deepen.py": ({"cut_policy": {"method": "deepen", "max_cut": 3}}, "cuts"),
    "half_codec.py": ({"codec": "half"}, "bytes_up"),
    "equal_votes.py": ({"aggregation": "equal_votes"}, "adapter"),
    "nearest_to_mean.py": ({"robust_aggregation": "nearest_to_mean"}, "adapter"),
    "halfway.py": ({"server_optimizer": "halfway"}, "adapter"),
    "small_adapters.py": ({"objective": "small_adapters"}, "adapter"),
    "signs.py": ({"optim": "signs"}, "adapter"),
    "entropy.py": ({"metrics": ["entropy"]}, "metrics"),
    "tablet.py": ({"devices": "tablet"}, "virtual_seconds"),
    "loss_lines.py": ({"callbacks": ["loss_lines"]}, "losses"),
    "half_and_half.py": ({"method": "half_and_half"}, "cuts"),
}  # fmt: skip


def figures(folder: Path) -> Settings:
    """What a run left, as far as a piece can change it."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    losses = folder / "losses.csv"
    return {
        "adapter": (folder / "adapter" / ADAPTER).read_bytes(),
        "cuts": [line["cuts"] for line in lines],
        "bytes_up": [line["bytes_up"] for line in lines],
        "metrics": [line["metrics"] for line in lines],
        "virtual_seconds": [line["virtual_seconds"] for line in lines],
        "losses": losses.read_text() if losses.exists() else None,
    }


@pytest.fixture(scope="module")
def plain(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(Job(**setting, output_dir=str(folder)), console=Console(quiet=True))
    return figures(folder)


@pytest.mark.parametrize("file", rest_slow(ALONE, ["sorted_rows.py", "nearest_to_mean.py", "tablet.py"]))
def test_each_piece_alone_changes_its_figure_in_a_run(
    file: str, plugins: Path, setting: Settings, plain: Settings, tmp_path: Path
) -> None:
    changes, figure = ALONE[file]
    run(Job(**setting | changes, output_dir=str(tmp_path / "run")), console=Console(quiet=True))
    assert figures(tmp_path / "run")[figure] != plain[figure]


def accepting(folder: Path) -> list[str | Path]:
    return ["--job-data", "--accept", "first", "--policy", write_open_policy(folder)]


def over_a_network(settings: Settings, plugins: Path, folder: Path) -> None:
    """Run a job by the commands, each party with the plugins of the page; the clients take the job's data."""
    dump_job(Job(**settings, output_dir=str(folder / "run")), folder / "job.yaml")
    own = [word for path in sorted(plugins.glob("*.py")) for word in ("--plugin", str(path))]
    address, log = f"127.0.0.1:{free_port()}", folder / "log"
    parties = [start_command(["server", folder / "job.yaml", "--listen", address, *own], log)]
    for name in NAMES:
        where = ["--server", address, "--name", name, "--folder", folder / name, *accepting(folder)]
        parties.append(start_command(["client", *where, *own], folder / f"{name}.log"))
    for party in parties:
        party.join(60)
        party.kill()
    assert [party.exitcode for party in parties] == [0, 0, 0], log.read_text()


@pytest.mark.parametrize(
    "pieces", rest_slow([["sorted_rows.py", "nearest_to_mean.py", "tablet.py"], ["half_and_half.py"]], 1)
)
def test_rows_robust_rules_devices_and_methods_over_a_network(
    pieces: list[str], plugins: Path, setting: Settings, plain: Settings, tmp_path: Path
) -> None:
    settings = setting | {"network": {"clients": NAMES}}
    for file in pieces:
        settings |= ALONE[file][0]
    local = run(Job(**settings, output_dir=str(tmp_path / "local")), console=Console(quiet=True))
    over_a_network(settings, plugins, tmp_path)
    there, here = figures(tmp_path / "run"), figures(tmp_path / "local")
    figure = ALONE[pieces[0]][1]
    assert there["adapter"] == here["adapter"] and there["cuts"] == here["cuts"]
    assert there[figure] != plain[figure]
    assert there["virtual_seconds"] == [None] * 3  # of the devices memory alone counts: time is measured
    assert json.loads((tmp_path / "run/summary.json").read_text())["method"] == local.summary["method"]


@pytest.mark.slow
def test_all_pieces_in_comparisons(plugins: Path, setting: Settings, tmp_path: Path) -> None:
    own = [word for path in sorted(plugins.glob("*.py")) for word in ("--plugin", str(path))]
    settings = setting | {"rounds": 1, "local_steps": 1}
    for file in ("sorted_rows.py", "half_codec.py", "signs.py", "entropy.py", "tablet.py", "loss_lines.py"):
        settings |= ALONE[file][0]
    dump_job(Job(**settings, output_dir=str(tmp_path / "run")), tmp_path / "job.yaml")
    out = tmp_path / "out"
    axes = ["--methods", "splitft,half_and_half,deepen,halfway,small_adapters"]
    done = run_command("compare", tmp_path / "job.yaml", *axes, "--out", out, *own, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = ["--vary", "robust_aggregation=[none,nearest_to_mean]"]
    done = run_command("compare", tmp_path / "job.yaml", *rules, "--out", out, *own, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = ["--vary", "aggregation=[by_rank,equal_votes]"]
    done = run_command("compare", tmp_path / "job.yaml", *rules, "--out", out, *own, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    left = [figures(path.parent) for path in out.rglob("summary.json")]
    # Cuts and devices change no adapter: two rules, an optimizer and an objective do.
    assert len(left) == 9 and len({one["adapter"] for one in left}) == 5
    assert {tuple(one["cuts"][-1].values()) for one in left} >= {(1, 1), (2, 2)}
    for one in left:
        assert one["losses"] and one["virtual_seconds"][-1] and "entropy" in one["metrics"][-1]


@pytest.mark.parametrize("file", rest_slow(ALONE, ["sorted_rows.py"]))
def test_a_plan_knows_each_piece_with_its_plugin_alone(
    file: str, plugins: Path, setting: Settings, tmp_path: Path
) -> None:
    piece = {"sorted_rows.py": "sorted", "half_codec.py": "half"}.get(file, file[:-3])
    dump_job(Job(**setting | ALONE[file][0]), tmp_path / "job.yaml")
    done = run_command("plan", tmp_path / "job.yaml", "--plugin", plugins / file)
    assert done.returncode == 0, done.stderr
    done = run_command("plan", tmp_path / "job.yaml")
    assert done.returncode == 2 and piece in done.stderr and "--plugin MODULE" in done.stderr


def test_a_method_that_is_not_split_has_no_network_form(
    plugins: Path, setting: Settings, tmp_path: Path
) -> None:
    register_method("alone", lambda job: {"method": "local_only"})
    settings = setting | {"method": "alone", "network": {"clients": NAMES}}
    with pytest.raises(JobError, match="method alone runs local_only, which has no server"):
        serve(Job(**settings, output_dir=str(tmp_path / "run")), "127.0.0.1:0", console=Console(quiet=True))


def test_over_a_network_the_same_bits_come_out(plugins: Path, setting: Settings, tmp_path: Path) -> None:
    files = {name: str(write_rows(tmp_path / f"{name}.txt", 24, n)) for n, name in enumerate(NAMES)}
    settings = setting | {
        "data_files": files, "partition": {"method": "files"}, "codec": "half", "aggregation": "equal_votes",
        "server_optimizer": "halfway", "objective": "small_adapters", "optim": "signs",
        "cut_policy": {"method": "deepen", "max_cut": 3}, "network": {"clients": NAMES},
        "callbacks": ["loss_lines"], "metrics": ["entropy", "top5_accuracy"],
    }  # fmt: skip
    local = run(Job(**settings, output_dir=str(tmp_path / "local")), console=Console(quiet=True))
    over_a_network(settings, plugins, tmp_path)
    assert (tmp_path / "run" / "adapter" / ADAPTER).read_bytes() == (
        local.adapter_path / ADAPTER
    ).read_bytes()
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["metrics"] for line in history] == [record.metrics for record in local.history]
    assert local.summary["metrics"]["entropy"] > 0 and 0 <= local.summary["metrics"]["top5_accuracy"] <= 1
    counted = [len((tmp_path / place / "losses.csv").read_text().splitlines()) for place in ("local", "run")]
    assert counted == [8, 8]  # two clients, two rounds of two steps
    assert local.history[-1].cuts == {"client-0": 3, "client-1": 3}


OBJECTIVE = """
from splitft import register_objective


@register_objective("mine")
def mine(values, start):
    return sum(tensor.square().sum() for tensor in values.values()) / {divisor}
"""
AGGREGATION = """
from splitft import register_aggregation


@register_aggregation("mine")
def mine(blocks, weights):
    return {}
"""


@pytest.mark.parametrize(
    ("changes", "codes", "server_says", "client_says"),
    [
        # The server waits for a client that may mend its piece and come again.
        ({"objective": "mine"}, (None, 2), "is not ready, and waited for", "error: objective mine"),
        ({"aggregation": "mine"}, (2, 6), "error: aggregation mine must return", "error: .*server stopped"),
    ],
    ids=["on the client", "on the server"],
)
def test_a_piece_that_breaks_over_a_network_ends_its_party_and_the_other_hears_of_it(
    changes: Settings, codes: Any, server_says: str, client_says: str, setting: Settings, tmp_path: Path
) -> None:
    for side, divisor in (("server", 2), ("client", 0.0)):
        (tmp_path / f"{side}.py").write_text(OBJECTIVE.replace("{divisor}", f"({divisor} or int('x'))"))
    (tmp_path / "rule.py").write_text(AGGREGATION)
    settings = setting | changes | {"network": {"clients": ["client-0"]}, "clients": 1}
    dump_job(Job(**settings, output_dir=str(tmp_path / "run")), tmp_path / "job.yaml")
    own = [
        ["--plugin", tmp_path / f"{side}.py", "--plugin", tmp_path / "rule.py"]
        for side in ("server", "client")
    ]
    log, address = tmp_path / "server.log", f"127.0.0.1:{free_port()}"
    server = start_command(["server", tmp_path / "job.yaml", "--listen", address, *own[0]], log)
    where = ["--server", address, "--name", "client-0", "--folder", tmp_path / "kept", *accepting(tmp_path)]
    client = run_command("client", *where, *own[1])
    server.join(3)
    assert (server.exitcode, client.returncode) == codes, log.read_text() + client.stderr
    server.kill()
    assert re.search(client_says, client.stderr) and len(client.stderr.splitlines()) <= 2
    assert server_says in log.read_text()

"""Runs with differential privacy: their ε, their noise, and the same bits wherever they run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cases import rest_slow
from history_checker import check_history
from network_threads import QUIET, Settings, three_sites, together
from run_files import adapter_of, figures_of
from splitft import Job, RunResult, run
from splitft.client import private_steps
from splitft.common.failpoints import VARIABLE
from splitft.data import prepare
from splitft.errors import JobError, ModelError, PolicyError
from splitft.job.site_policy import SitePolicy, check_policy
from splitft.lora.dp.noise import experiment_key, is_key
from splitft.lora.dp.plan import plan_of
from splitft.running import private
from splitft.running.network import check_network_job
from splitft.running.private import LEDGER, kept_ledger
from splitft.weights.load import load_tokenizer

NAMES = ["anna", "bert", "cleo"]
SEED = 7


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("private")
    return three_sites(
        folder, NAMES, method="fed_lora", labels="server", cuts=1, eval_every=1, padding_free="auto",
        max_grad_norm=0.1, dp={"epsilon": 8.0, "noise_seed": SEED},
    )  # fmt: skip


def finish(setting: Settings, folder: Path, **options: Any) -> RunResult:
    return run(Job(**setting, output_dir=str(folder)), console=QUIET, **options)


def without_seed(setting: Settings, **dp: Any) -> Settings:
    """The same job whose noise follows from no number in it."""
    return setting | {"dp": {"epsilon": 8.0} | dp}


def test_epsilon_is_the_accountants_everywhere_that_it_is_told(setting: Settings, tmp_path: Path) -> None:
    result = finish(setting, tmp_path / "run")
    job = Job(**setting)
    rows = {c.name: len(c.train) for c in prepare(job, load_tokenizer(job.model_name_or_path)).clients}
    assert result.history[0].epsilon == 0
    for record in result.history:
        for name, count in rows.items():
            plan, own = plan_of(job, count), record.clients[name]
            assert own.private_steps == record.round * job.local_steps
            assert own.epsilon == plan.epsilon(own.private_steps)
        assert record.epsilon == max(own.epsilon or 0 for own in record.clients.values())
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["privacy"]
    assert told["epsilon"] == result.history[-1].epsilon and 7 < told["epsilon"] <= 8
    assert {name: own["rows"] for name, own in told["clients"].items()} == rows
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "takes it off again: nothing is covered" in card  # noise_seed is in the job


def test_a_secret_key_makes_other_noise_and_stands_in_no_file_of_the_result(
    setting: Settings, tmp_path: Path
) -> None:
    one, other = (finish(without_seed(setting), tmp_path / name) for name in ("one", "other"))
    assert adapter_of(one.output_dir) != adapter_of(other.output_dir)
    state = next((tmp_path / "one" / "checkpoints").glob("*/state.json")).read_text()
    keys = {word for word in state.split('"') if is_key(word)}
    assert len(keys) == len(NAMES)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file() and "checkpoints" not in path.parts:
            content = path.read_bytes()
            assert not any(key.encode() in content for key in keys), path
    card = (tmp_path / "one" / "adapter" / "README.md").read_text()
    assert f"epsilon {one.history[-1].epsilon:.3g} at delta" in card and "losses and evaluation" in card


def give_keys(folder: Path) -> None:
    """Put the keys that follow from SEED into the folders of a network's clients."""
    for name in NAMES:
        (folder / name).mkdir()
        text = json.dumps({"key": experiment_key(SEED, name), "jobs": {}})
        (folder / name / LEDGER).write_text(text)


MODES: dict[str, Settings] = {
    "several micro-batches": {"gradient_accumulation_steps": 2},
    "algorithms": {"objective": "fedprox", "proximal_mu": 0.1, "optim": "sgd", "learning_rate": 0.05},
    "freeze_a, some clients": {"aggregation": "freeze_a", "clients_per_round": 2, "rounds": 3},
    "a server without weights": {"network": {"clients": NAMES, "probe": False}},
}  # fmt: skip


@pytest.mark.parametrize("mode", rest_slow(MODES, 1))
def test_the_same_bits_over_a_network(mode: str, setting: Settings, tmp_path: Path) -> None:
    """With the same keys; the network's clients have theirs in their folders, and no number in the job."""
    setting = setting | MODES[mode]
    give_keys(tmp_path)
    apart = together(without_seed(setting), tmp_path)
    finish(setting, tmp_path / "one")
    assert adapter_of(apart) == adapter_of(tmp_path / "one")
    assert figures_of(apart) == figures_of(tmp_path / "one")
    check_history(apart, Job(**without_seed(setting) | {"clients": len(NAMES)}))
    kept = json.loads((tmp_path / "anna" / LEDGER).read_text())
    ((_, rounds),) = kept["jobs"].items()
    took_part = sum("anna" in line["cohort"] for line in figures_of(apart))
    assert len(rounds) == took_part


@pytest.mark.slow
def test_a_run_over_a_network_goes_on_with_what_its_clients_have_kept(
    setting: Settings, tmp_path: Path
) -> None:
    """Server and clients start again from their folders; their keys and their counts go on."""
    one = setting | {"rounds": 1, "dp": {"noise_multiplier": 0.8, "noise_seed": SEED}}
    apart = one | {"dp": {"noise_multiplier": 0.8}}
    give_keys(tmp_path)
    together(apart, tmp_path)
    folder = together(apart | {"rounds": 2}, tmp_path, resume=True)
    finish(one, tmp_path / "one")
    finish(one | {"rounds": 2}, tmp_path / "one", resume=True)
    assert adapter_of(folder) == adapter_of(tmp_path / "one")
    assert figures_of(folder) == figures_of(tmp_path / "one")
    for name in NAMES:
        ((_, rounds),) = json.loads((tmp_path / name / LEDGER).read_text())["jobs"].items()
        assert len(rounds) == 2


@pytest.mark.parametrize("point", rest_slow(["server.aggregate:2:interrupt", "run.recorded:2:interrupt"], 1))
def test_resumed_is_as_never_interrupted(
    point: str, setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = finish(setting, tmp_path / "whole")
    monkeypatch.setenv(VARIABLE, point)
    with pytest.raises(KeyboardInterrupt):
        finish(setting, tmp_path / "run")
    monkeypatch.delenv(VARIABLE)
    finish(setting, tmp_path / "run", resume=True)
    assert adapter_of(tmp_path / "run") == adapter_of(wanted.output_dir)
    assert figures_of(tmp_path / "run") == figures_of(wanted.output_dir)


def test_resumed_with_a_secret_key_draws_the_same_noise_again(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that is trained again is the same round: two noises on one gradient would average out."""
    opened: list[tuple[str, str]] = []
    original = private_steps.PrivacyLedger.open

    def noting(self: Any, digest: str, *args: Any) -> None:
        opened.append((self.client, digest))
        original(self, digest, *args)

    monkeypatch.setattr(private_steps.PrivacyLedger, "open", noting)
    monkeypatch.setenv(VARIABLE, "server.aggregate:2:interrupt")
    with pytest.raises(KeyboardInterrupt):
        finish(without_seed(setting), tmp_path / "run")
    monkeypatch.delenv(VARIABLE)
    result = finish(without_seed(setting), tmp_path / "run", resume=True)
    before, after = opened[len(NAMES) : 2 * len(NAMES)], opened[2 * len(NAMES) :]
    assert before == after  # the second round, twice
    assert result.history[-1].clients["anna"].private_steps == 4


def test_a_run_for_an_epsilon_is_not_extended(setting: Settings, tmp_path: Path) -> None:
    finish(setting, tmp_path / "run")
    with pytest.raises(JobError, match=r"its noise was chosen for dp\.epsilon 8"):
        finish(setting | {"rounds": 3}, tmp_path / "run", resume=True)
    stated = setting | {"dp": {"noise_multiplier": 1.0, "noise_seed": SEED}}
    short = finish(stated, tmp_path / "stated")
    longer = finish(stated | {"rounds": 3}, tmp_path / "stated", resume=True)
    assert (longer.history[-1].epsilon or 0) > (short.history[-1].epsilon or 0)


def test_an_empty_batch_is_a_step_of_noise_alone(setting: Settings, tmp_path: Path) -> None:
    rare = setting | {"per_device_train_batch_size": 1, "rounds": 1, "local_steps": 12}
    result = finish(rare, tmp_path / "run")
    losses = [record.loss for record in result.history[1:]]
    assert all(loss is not None and loss < 20 for loss in losses)
    assert result.summary["adapter_changed"]


@pytest.mark.parametrize("change", [
    {"method": "splitft"}, {"packing": True}, {"padding_free": True}, {"group_by_length": True},
    {"max_grad_norm": 0.0}, {"use_dora": True, "adapter_name_or_path": None},
    {"dp": {"epsilon": 8.0, "noise_multiplier": 1.0}}, {"dp": {"delta": 1e-5}}, {"method": "local_only"},
    {"partition": {"method": "files", "samples_per_client": 30}},
], ids=str)  # fmt: skip
def test_what_contradicts_it_is_refused_at_load(change: Settings, setting: Settings) -> None:
    with pytest.raises(JobError):
        Job(**setting | change)


def test_a_model_whose_rows_are_not_apart_is_refused(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "prove_row_gradients", lambda model, seed: "rows see each other")
    with pytest.raises(ModelError, match="cannot be trained with dp: rows see each other"):
        finish(setting, tmp_path / "run")


def test_noise_that_the_server_knows_is_refused_on_both_sides(setting: Settings, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"dp\.noise_seed"):
        check_network_job(Job(**setting))
    with pytest.raises(JobError, match="take the noise off"):
        kept_ledger(Job(**setting), "anna", tmp_path, "digest")


def test_a_client_counts_over_restarts_and_refuses_more_than_its_budget(
    setting: Settings, tmp_path: Path
) -> None:
    """A hostile server that has rounds taken again from other adapters gets the planned steps alone."""
    job = Job(**without_seed(setting))
    plan = plan_of(job, 18)
    for digest in ("one", "two"):
        ledger = kept_ledger(job, "anna", tmp_path, "rows")
        assert ledger is not None
        ledger.open(digest, plan, job.local_steps)
    assert (tmp_path / LEDGER).stat().st_mode & 0o077 == 0
    again = kept_ledger(job.model_copy(update={"rounds": 9}), "anna", tmp_path, "rows")
    assert again is not None and again.rounds == 2 and again.key == ledger.key
    with pytest.raises(PolicyError, match="used up"):
        again.open("three", plan, job.local_steps)
    other = kept_ledger(job, "anna", tmp_path, "other rows")
    assert other is not None and other.rounds == 0


@pytest.mark.parametrize(("dp", "refused"), [
    ({"epsilon": 8.0}, ""), ({"epsilon": 8.5}, "dp.epsilon 8.5, max_epsilon 8"),
    ({"epsilon": None, "noise_multiplier": 1.0}, "no dp.epsilon, max_epsilon 8"), (None, "no dp.epsilon"),
], ids=str)  # fmt: skip
def test_a_site_may_ask_for_an_epsilon(dp: Settings | None, refused: str, setting: Settings) -> None:
    job = Job(**{key: value for key, value in setting.items() if key != "dp"} | ({"dp": dp} if dp else {}))
    policy = SitePolicy(max_epsilon=8.0, methods=["fed_lora"])
    if not refused:
        check_policy(policy, job, None, "127.0.0.1:1", job_data=False)
        return
    with pytest.raises(PolicyError, match=re.escape(refused)):
        check_policy(policy, job, None, "127.0.0.1:1", job_data=False)

"""Whole models over a network: what client and server load, and what a site's owner and a job may say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from reference import make_setting
from splitft import Job
from splitft.engines.network.control import Welcome
from splitft.engines.network.site import Joined
from splitft.errors import JobError, PolicyError
from splitft.job.site_policy import SitePolicy
from splitft.job.told import told_job
from splitft.model.config import count_blocks
from splitft.running.base_facts import base_facts
from splitft.running.baselines.whole import WholeClient
from splitft.running.client_setup import ClientSetup
from splitft.running.facts import weight_facts
from splitft.running.model import base_config, load_base
from splitft.running.network import check_network_job, needs_weights
from splitft.server.probe import not_finite
from splitft.weights import load
from splitft.wire.codecs.registry import network_job

QUIET = Console(quiet=True)
Settings = dict[str, Any]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Counter[str]]:
    """Names of the weights of each model that is loaded."""
    found: list[Counter[str]] = []
    from_folder = load._from_folder

    def counting(*arguments: Any) -> Any:
        model = from_folder(*arguments)
        found.append(Counter(name for name, _ in model.named_parameters()))
        return model

    monkeypatch.setattr(load, "_from_folder", counting)
    return found


def setting_of(folder: Path, model_type: str = "llama") -> Settings:
    return make_setting(folder, model_type) | {
        "adapter_name_or_path": None, "method": "fed_lora", "clients": 1, "network": {"clients": ["anna"]},
    }  # fmt: skip


def joined(setting: Settings, policy: SitePolicy, **changes: Any) -> Joined:
    job = Job(**setting | {"data_files": None} | changes)
    text, optional = told_job(network_job(job).model_copy(update={"dtype": "float32"}))
    data = Path(setting["data_files"])
    setup = ClientSetup("anna", data, None, None, QUIET, lambda address: pytest.fail(), policy)
    targets = tuple(job.lora_target_modules or ())
    return setup.make(Welcome(job=text, targets=targets, server_inputs="dummy_ids", optional=optional))


def test_a_client_reads_each_weight_once(tmp_path: Path, read: list[Counter[str]]) -> None:
    client = joined(setting_of(tmp_path), SitePolicy()).client
    assert isinstance(client, WholeClient) and client.model.num_blocks == 4
    assert len(read) == 1 and set(read[0].values()) == {1}
    for block in range(4):
        assert f"model.layers.{block}.mlp.up_proj.weight" in read[0]


def test_too_large_a_model_is_refused_before_it_is_read(tmp_path: Path, read: list[Counter[str]]) -> None:
    with pytest.raises(PolicyError, match=r"max_memory_gb is 1e-05"):
        joined(setting_of(tmp_path), SitePolicy(max_memory_gb=1e-5))
    assert not read
    joined(setting_of(tmp_path), SitePolicy(max_memory_gb=1.0))


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_digests_are_those_of_the_whole_model_and_one_block_is_held(
    model_type: str, tmp_path: Path, read: list[Counter[str]]
) -> None:
    job = Job(**setting_of(tmp_path, model_type))
    found = base_facts(job, config := base_config(job))
    assert len(read) == count_blocks(config) > 1 and max(map(len, read[1:])) < len(read[0])
    assert all(count == 1 for count in sum(read, Counter[str]()).values())
    assert found == weight_facts(load_base(job, QUIET))


def test_which_servers_hold_the_weights(tmp_path: Path) -> None:
    def job_of(**changes: Any) -> Job:
        stated = {"model_name_or_path": "m", "dataset_name": "d", "privacy": "server_reads"}
        return Job(**stated | {"method": "fed_lora"} | changes)

    without = {"network": {"probe": False}}
    assert needs_weights(job_of()) and not needs_weights(job_of(**without))
    assert needs_weights(job_of(**without, use_dora=True))
    assert needs_weights(job_of(**without, init_lora_weights="pissa"))
    check_network_job(job_of(**without))  # no label leaves a client: the job need not say where they are
    with pytest.raises(JobError, match="a job must state `privacy`"):
        check_network_job(job_of(privacy=None))
    with pytest.raises(JobError, match="a job must state `labels`"):
        check_network_job(job_of(method="splitft"))
    with pytest.raises(JobError, match=r"network\.probe: false is for method fed_lora: with splitft"):
        check_network_job(job_of(method="splitft", labels="client", **without))


def test_an_average_without_a_model_must_be_finite() -> None:
    adapters = [{0: {"a": torch.tensor([1.0, value])}} for value in (2.0, float("inf"))]
    assert [not_finite({}, adapter) for adapter in adapters] == ["", "the average is not finite"]

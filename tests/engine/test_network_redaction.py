"""Redaction by each site's own policy: the bits of one process, and what a client's owner is told."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cases import rest_slow
from network_threads import QUIET, Settings, three_sites, together
from run_files import adapter_of
from splitft import Job, run
from splitft.errors import DataError
from splitft.job.redaction import RedactConfig
from splitft.job.site_policy import SitePolicy
from splitft.running.client_setup import ClientSetup, naming_the_job

NAMES = ["anna", "bert"]
REDACT = {"patterns": [r"\blaw\b", "people of"], "rare_tokens": 3}
JOBS = {
    "labels at the server": {"labels": "server"},
    "labels at home, one activation for each row": {
        "labels": "client",
        "train_front": False,
        "codec": "int8",
        "adapter_name_or_path": None,
    },
    "whole models": {"method": "fed_lora", "labels": "client"},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return three_sites(tmp_path_factory.mktemp("redacted"), NAMES, cuts=1, eval_every=1)


@pytest.mark.parametrize("job", rest_slow(JOBS, 1))
def test_sites_that_redact_have_the_bits_of_one_process(job: str, setting: Settings, tmp_path: Path) -> None:
    policy = SitePolicy(redact=RedactConfig(**REDACT))
    folder = together(setting | JOBS[job], tmp_path, policy=policy)
    adapters = {}
    for name, redact in (("redacted", REDACT), ("plain", {})):
        one = Job(**setting | JOBS[job] | {"redact": redact}, output_dir=str(tmp_path / name))
        said = Console(file=io.StringIO(), width=200)
        run(one, console=said)
        adapters[name] = adapter_of(tmp_path / name)
        assert ("Note: redacted: " in said.file.getvalue()) == bool(redact)  # type: ignore[attr-defined]
    assert adapter_of(folder) == adapters["redacted"] != adapters["plain"]


def test_an_owner_s_own_mistake_is_not_the_server_s(setting: Settings, tmp_path: Path) -> None:
    policy = SitePolicy(redact=RedactConfig(terms_file=str(tmp_path / "none")))
    setup = ClientSetup(
        "anna", Path(setting["data_files"]["anna"]), None, None, QUIET, lambda a: None, policy
    )  # type: ignore[arg-type,return-value]
    job = setup._own_job(Job(**setting))
    assert job.redact == policy.redact
    told = r"^redact\.terms_file .*none cannot be read: No such file"
    with pytest.raises(DataError, match=told) as caught, naming_the_job():
        setup._own_data(job, _tokenizer(setting))
    assert "key of the server's job" not in str(caught.value)


def _tokenizer(setting: Settings) -> object:
    from splitft.weights.load import load_tokenizer

    return load_tokenizer(setting["model_name_or_path"], "main")

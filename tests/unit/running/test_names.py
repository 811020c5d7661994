"""Names that a party of a run lacks: told before anything heavy starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from splitft import Job, JobError
from splitft.engines.network.control import Welcome
from splitft.running.client_setup import ClientSetup
from splitft.running.names import check_names


def job_of(**changes: Any) -> Job:
    return Job(model_name_or_path="no-such-folder", dataset_name="d", **changes)


LACKING = {
    "objective": ({"objective": "fedpox"}, "objective: no objective is called fedpox; did you mean fedprox"),
    "optim": ({"optim": "lion_32bit"}, "optim: no optimizer is called lion_32bit"),
}


@pytest.mark.parametrize("case", LACKING)
def test_a_client_names_the_piece_that_it_lacks_before_it_loads_a_model(case: str) -> None:
    changes, problem = LACKING[case]
    welcome = Welcome(job=job_of(**changes).model_dump_json())
    setup = ClientSetup("ann", Path("ann.txt"), None, None, Console(quiet=True), lambda address: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(JobError, match=f"^{problem}.*--plugin MODULE"):
        setup.make(welcome)


def test_a_client_needs_neither_the_servers_optimizer_nor_its_policy() -> None:
    job = job_of(server_optimizer="theirs", cut_policy={"method": "theirs"})
    setup = ClientSetup("ann", Path("ann.txt"), None, None, Console(quiet=True), lambda address: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(Exception, match="no-such-folder"):
        setup.make(Welcome(job=job.model_dump_json()))
    with pytest.raises(JobError, match="server_optimizer: no server optimizer is called theirs"):
        check_names(job.model_copy(update={"cut_policy": job_of().cut_policy}), job, job)

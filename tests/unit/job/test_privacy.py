"""Privacy modes: what each refuses, where a job must state one, and what a site's policy asks for."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from splitft import Job
from splitft.errors import JobError, PolicyError
from splitft.job.privacy import MODES, PrivacyMode
from splitft.job.site_policy import SitePolicy, check_policy
from splitft.job.told import read_told, told_job
from splitft.running.agreement import agreed_view, changes, view_digest
from splitft.running.network import check_network_job


def job_of(**changes: Any) -> Job:
    return Job(
        **{"model_name_or_path": "m", "dataset_name": "d", "labels": "client", "codec": "int8"} | changes
    )


CONTRADICTIONS = [
    ("no_activations", {}, "method: privacy no_activations: with splitft every row's activations go to"),
    ("no_activations", {"method": "same_split"}, "with same_split every row's activations go to the server"),
    ("no_activations", {"method": "centralized"}, "with centralized all rows lie in one place"),
    ("sum_only", {}, "method: privacy no_activations: with splitft"),
    ("sum_only", {"method": "fed_lora"}, "secure_aggregation: privacy sum_only: without it"),
    ("not_stored", {"codec": "delta"}, "codec: privacy not_stored: with delta the server's checkpoints hold"),
    ("not_stored", {"num_sample_continuations": 2}, "the summary would hold text of held-out rows"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "keys", "reason"), CONTRADICTIONS)
def test_a_mode_refuses_what_contradicts_it_with_the_reason(mode: str, keys: Any, reason: str) -> None:
    with pytest.raises(JobError, match=reason):
        job_of(privacy=mode, **keys)
    job_of(privacy="server_reads", **keys)
    job_of(**keys)


def test_a_mode_takes_what_keeps_its_promise() -> None:
    for method in ("fed_lora", "local_only"):
        assert job_of(privacy="no_activations", method=method).privacy == "no_activations"
    job_of(privacy="not_stored", labels="server", train_front=False)
    job_of(privacy="server_reads", method="fed_lora")  # it promises nothing
    assert get_args(PrivacyMode) == tuple(MODES)
    masked = {"method": "fed_lora", "secure_aggregation": True, "robust_aggregation": "none"}
    assert job_of(privacy="sum_only", **masked).privacy == "sum_only"
    with pytest.raises(JobError, match=r"privacy: must be one of server_reads, .*, sum_only or"):
        job_of(privacy="private")


def test_over_a_network_the_mode_is_stated_and_redaction_is_the_sites() -> None:
    with pytest.raises(
        JobError, match="must state `privacy`: write `privacy: server_reads` if the server may"
    ):
        check_network_job(job_of())
    with pytest.raises(JobError, match="must state `privacy`"):
        check_network_job(job_of(method="fed_lora"))
    check_network_job(job_of(privacy="server_reads"))
    check_network_job(job_of(privacy="no_activations", method="fed_lora"))
    with pytest.raises(JobError, match="redact is each site's own"):
        check_network_job(job_of(privacy="server_reads", redact={"rare_tokens": 1}))


def test_a_job_that_a_server_tells_is_held_to_its_mode_at_the_client() -> None:
    """A server cannot state a mode that its job does not keep: clients read it by the same rules."""
    text, optional = told_job(job_of(privacy="server_reads"))
    assert read_told(text, optional, Job)[0].privacy == "server_reads" and "privacy" not in optional
    lying = text.replace("server_reads", "no_activations")
    with pytest.raises(Exception, match="privacy no_activations: with splitft"):
        read_told(lying, optional, Job)


@pytest.mark.parametrize(("stated", "refusal"), [
    (None, "privacy not stated, allowed no_activations"),
    ("server_reads", "privacy server_reads, allowed no_activations"), ("no_activations", ""),
])  # fmt: skip
def test_a_site_s_policy_asks_for_a_mode(stated: str | None, refusal: str) -> None:
    job = job_of(privacy=stated, method="fed_lora")
    policy = SitePolicy(privacy=["no_activations"])
    if not refusal:
        check_policy(policy, job, None, "server.org:1", job_data=False)
        return
    with pytest.raises(PolicyError, match=refusal):
        check_policy(policy, job, None, "server.org:1", job_data=False)
    check_policy(SitePolicy(), job, None, "server.org:1", job_data=False)


def test_a_server_cannot_redact_and_a_changed_mode_is_asked_about() -> None:
    """What a server redacts would tell it, by the rows' lengths, where its own patterns match."""
    with pytest.raises(PolicyError, match="redact, which is this site's own to say"):
        check_policy(SitePolicy(), job_of(redact={"patterns": ["x"]}), None, "s.org:1", job_data=False)
    one, other = (agreed_view(job_of(privacy=mode), ["q_proj"]) for mode in ("server_reads", "not_stored"))
    assert view_digest(one) != view_digest(other)
    assert changes(one, other) == "privacy: 'server_reads', now 'not_stored'"
    assert not [key for key in one if key.startswith("redact")]

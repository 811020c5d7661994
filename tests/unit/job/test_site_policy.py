"""The file of a site's policy: written with every key, read back, and wrong ones told by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitft import Job
from splitft.errors import JobError, NetworkError, OutputError, PolicyError
from splitft.job.site_policy import SitePolicy, check_policy, load_policy, may_adapt, may_read, write_policy
from splitft.job.told import read_told, told_job
from splitft.wire.codecs.registry import network_job


def job_of(**changes: object) -> Job:
    return Job(**{"model_name_or_path": "m", "dataset_name": "d", "labels": "client"} | changes)


def test_a_written_policy_is_the_default_and_names_every_key(tmp_path: Path) -> None:
    path = write_policy(tmp_path)
    assert path == tmp_path / "site.yaml"
    assert load_policy(None, tmp_path) == load_policy(path, Path("elsewhere")) == SitePolicy()
    text = path.read_text()
    for name, field in SitePolicy.model_fields.items():
        assert f"\n# {field.description}\n" in text and f"\n{name}:" in text
    with pytest.raises(OutputError, match="is there already"):
        write_policy(path)


@pytest.mark.parametrize(("text", "problem"), [
    ("max_cuts: 3", "max_cuts: unknown key; did you mean max_cut"),
    ("labels: server", "labels: must be"),
    ("max_rounds: 0", "max_rounds: must be"),
    ("attention: [evil/kernel]", "attention"),
    ("models: {m: [abc]}", "models"),
    ("max_cut: 1\nmax_cut: 2", "max_cut: given twice"),
    ("redact: {patterns: ['(']}", r"redact\.patterns: '\(' is no regular expression"),
    ("redact: {pattern: [x]}", r"redact\.pattern: unknown key; did you mean patterns"),
    ("privacy: no_activations", "privacy: must be"),
])  # fmt: skip
def test_a_wrong_policy_is_refused_by_its_key(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(JobError, match=problem):
        load_policy(None, tmp_path)
    with pytest.raises(JobError, match=r"none\.yaml cannot be read"):
        load_policy(tmp_path / "none.yaml", tmp_path)


def test_files_are_those_below_a_listed_folder_and_no_way_leads_out(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "study" / "link.json").symlink_to(tmp_path / "secret.json")
    policy = SitePolicy(files=[str(tmp_path / "study" / "*.json")])
    assert may_read(policy, str(tmp_path / "study" / "a.json"))
    assert may_read(policy, str(tmp_path / "study" / "*.json"))
    for name in ("secret.json", "study/../secret.json", "study/link.json", "study/*/../../secret.json"):
        assert not may_read(policy, str(tmp_path / name)), name


def test_hosts_layers_and_data_sets() -> None:
    job, policy = job_of(), SitePolicy(datasets=["other"], target_modules=["q_proj"])
    check_policy(policy, job, "server.org:1", "server.org:2", job_data=False)
    check_policy(SitePolicy(aggregator_hosts=["b.org"]), job, "b.org:1", "server.org:2", job_data=False)
    with pytest.raises(PolicyError, match=r"network\.aggregator 10\.0\.0\.1:22, allowed hosts server\.org"):
        check_policy(policy, job, "10.0.0.1:22", "server.org:2", job_data=False)
    with pytest.raises(PolicyError, match="dataset_name d, allowed other"):
        check_policy(policy, job, None, "server.org:2", job_data=True)
    assert may_adapt(policy, ["self_attn.q_proj", "q_proj", "v_proj"]) == ["v_proj"]


def test_a_whole_model_here_is_a_word_of_its_own() -> None:
    """A site that limits its front has not agreed to hold the whole model."""
    whole = job_of(method="fed_lora", labels="server", codec="int8")

    def refused(policy: SitePolicy, job: Job) -> str:
        try:
            check_policy(policy, job, None, "server.org:1", job_data=False)
        except PolicyError as error:
            return str(error).partition("job: ")[2]
        return ""

    assert not refused(SitePolicy(labels=["client"], codecs=["none"], max_tail_blocks=0, min_cut=4), whole)
    beyond = "the whole model is held here, max_cut 8 (methods: [fed_lora] allows it)"
    assert refused(SitePolicy(max_cut=8), whole) == beyond
    assert not refused(SitePolicy(max_cut=8, methods=["splitft", "fed_lora"]), whole)
    only = SitePolicy(methods=["fed_lora"])
    assert not refused(only, whole)
    assert refused(only, job_of()) == "method splitft, allowed fed_lora"
    assert refused(SitePolicy(methods=["splitft"]), whole) == "method fed_lora, allowed splitft"
    assert refused(SitePolicy(max_cut=1, max_tail_blocks=0), job_of(cuts=2)) == (
        "tail_blocks 1, max_tail_blocks 0; cuts 2, max_cut 1"
    )


JOBS = [
    {}, {"dataset_text_field": "text"}, {"cuts": [1, 2, 3, 1, 2], "codec": "int8"}, {"eval_codec": "bf16"},
    {"cut_policy": {"method": "makespan", "max_cut": 4}, "devices": "laptop"},
    {"max_steps": 40, "local_steps": 8}, {"labels": "server"},
    {"device_profiles": {"mine": {"flops": 1e9}}, "network": {"min_clients": 2}},
]  # fmt: skip


@pytest.mark.parametrize("changes", JOBS)
def test_a_told_job_is_the_same_job_in_the_keys_that_are_set(changes: dict[str, object]) -> None:
    job = network_job(job_of(**changes)).model_copy(update={"dtype": "float32", "padding_free": False})
    text, optional = told_job(job)
    told, unknown = read_told(text, optional, Job)
    left = {"output_dir", "adapter_name_or_path"}
    assert told.model_dump(exclude=left) == job.model_dump(exclude=left) and not unknown
    assert "local_steps" not in text or "local_steps" in changes
    assert ("dataset_text_field" in told.model_fields_set) == ("dataset_text_field" in changes)


def test_keys_of_another_version() -> None:
    text, optional = told_job(job_of(cut_policy={"method": "accuracy"}))
    newer = text[:-1] + ', "cut_policy": {"method": "accuracy", "later": 1}, "later_still": 2}'
    job, unknown = read_told(newer, [*optional, "later_still"], Job)
    assert unknown == ["cut_policy.later", "later_still"] and job.cut_policy.method == "accuracy"
    with pytest.raises(NetworkError, match="does not know: later_still; install the server's version"):
        read_told(newer, optional, Job)

"""Promises of the rules across keys of a job, and of problems that are told all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_files import BASE, only_problem, problems, write
from pydantic import ValidationError

from splitft.errors import JobError
from splitft.job import CutPolicyConfig, DeviceProfile, Job, PartitionConfig, load_job

RULES = [
    ("labels: client\ntail_blocks: 0", "tail_blocks"),
    ("tail_blocks: 1", "tail_blocks"),
    ("lora_r_cut: 17", "lora_r_cut"),
    ("cuts: [1, 2, 3]", "cuts"),
    ("cuts: [1, 2, 3]\nclients: 4", "cuts"),
    ("clients: 3\nclients_per_round: 4", "clients_per_round"),
    ("data_files: a.txt", "dataset_name"),
    ("partition: {method: by_column}", "partition.column"),
    ("partition: {method: dirichlet}", "partition.column"),
    ("partition: {method: files}", "partition.method"),
    ("lr_scheduler_type: constant\nwarmup_ratio: 0.1", "warmup_ratio"),
    ("lr_scheduler_type: constant\nwarmup_steps: 1", "warmup_steps"),
    ("rounds: 2\nlocal_steps: 3\nwarmup_steps: 7", "warmup_steps"),
    ("cut_policy: {min_cut: 4, max_cut: 3}\ncuts: 3", "cut_policy.min_cut"),
    ("cut_policy: {min_cut: 3}", "cuts"),
    ("cut_policy: {max_cut: 3}\ncuts: [1, 4, 4, 1, 1]", "cuts"),
    ("cut_policy: {w_min: 1.5}", "cut_policy.w_min"),
    ("cut_policy: {w_max: 0.7}", "cut_policy.w_max"),
    ("cut_policy: {method: schedule}", "cut_policy.schedule"),
    ("cut_policy: {method: schedule, schedule: {}}", "cut_policy.schedule"),
    ("cut_policy: {method: splitft, schedule: {1: 2}}", "cut_policy.schedule"),
    ("cut_policy: {method: schedule, schedule: {0: 2}}", "cut_policy.schedule"),
    ("cut_policy: {method: schedule, schedule: {01: 2}}", "cut_policy.schedule"),
    ("cut_policy: {method: schedule, schedule: {first: 2}}", "cut_policy.schedule"),
    ("cut_policy: {method: schedule, schedule: {1: [1, 2]}}", "cut_policy.schedule"),
    ("cut_policy: {method: schedule, max_cut: 4, schedule: {1: [1, 2, 5, 1, 1]}}", "cut_policy.schedule"),
    ("cut_policy: {method: schedule, min_cut: 2, schedule: {1: 1}}", "cut_policy.schedule"),
    ("cut_policy: {method: resource}", "devices"),
    ("cut_policy: {method: makespan}", "devices"),
    ("devices: [phone, laptop]", "devices"),
    ("padding_free: true\nserver_batch_tokens: auto", "padding_free"),
    ("dtype: float16", "dtype"),
    ("dtype: auto\nbf16: true", "dtype"),
    ("dtype: float32\nbf16: true", "dtype"),
    ("lora_target_modules: '(q_proj'", "lora_target_modules"),
    ("exclude_modules: '*.q_proj'", "exclude_modules"),
    (f"lora_target_modules: '{'(' * 20000}'", "lora_target_modules"),
    ("lora_target_modules: 'a{99999999999999}'", "lora_target_modules"),
    *((f"init_lora_weights: {init}", "init_lora_weights") for init in ("eva", "corda", "loftq", "x")),
    ("init_lora_weights: false\nadapter_name_or_path: a", "init_lora_weights"),
    ("use_dora: true\nserver_batch_tokens: auto", "use_dora"),
    ("use_dora: true\ndevices: laptop", "use_dora"),
    ("use_dora: true\nlora_target_parameters: [mlp.experts.down_proj]", "use_dora"),
    ("layers_to_transform: 1\nlora_target_parameters: [mlp.experts.down_proj]", "layers_to_transform"),
    ("init_lora_weights: pissa\nlora_target_parameters: [mlp.experts.down_proj]", "init_lora_weights"),
    ("use_dora: true\ninit_lora_weights: pissa", "use_dora"),
    ("init_lora_weights: pissa_niter_0", "init_lora_weights"),
    ("init_lora_weights: pissa\nadapter_name_or_path: a", "init_lora_weights"),
    ("init_lora_weights: pissa\nlora_r_cut: 8", "init_lora_weights"),
    ("init_lora_weights: olora\nlora_r_cut: 8", "init_lora_weights"),
    ("init_lora_weights: orthogonal\nlora_r_cut: 8", "init_lora_weights"),
    ("init_lora_weights: orthogonal\nlora_r: 7", "init_lora_weights"),
]
KEPT = [
    "labels: client\ntail_blocks: 1",
    "labels: server\ntail_blocks: 0",
    "dtype: bfloat16\nbf16: true",
    "dtype: auto",
    "lora_r_cut: 16",
    "init_lora_weights: pissa_niter_16\nlora_r_cut: 16",
    "init_lora_weights: gaussian\nlora_r_cut: 8",
    "lora_target_modules: '.*_proj'\nexclude_modules: [o_proj]\nlayers_to_transform: [0, 2]",
    "cuts: [1, 2, 3]\nclients: 3",
    "cuts: [1, 2, 3]\npartition: {method: by_column, column: c}",
    "clients: 3\nclients_per_round: 3",
    "partition: {method: dirichlet, column: c}",
    "lr_scheduler_type: constant_with_warmup\nwarmup_ratio: 0.1",
    "rounds: 2\nlocal_steps: 3\nwarmup_steps: 6",
    "cut_policy: {min_cut: 3, max_cut: 3}\ncuts: 3",
    "cut_policy: {w_min: 1, w_max: 1}",
    "cut_policy: {method: schedule, schedule: {1: 2, 4: [1, 2, 3, 4, 5]}, max_cut: 5}",
    "cut_policy: {method: schedule, schedule: {1: [1, 2]}}\npartition: {method: by_column, column: c}",
    "cut_policy: {method: resource}\ndevices: laptop",
    "cut_policy: {method: makespan}\ndevices: {client-0: laptop}",
    "cut_policy: {method: splitft}",
    "cut_policy: {method: registered-later}",
    "devices: [phone, laptop]\nclients: 2",
    "devices: [phone, laptop]\npartition: {method: by_column, column: c}",
    "padding_free: true\nserver_batch_tokens: off",
    "order: turns\nserver_adapter: shared",
    "method: fed_lora\ncut_policy: {method: splitft}",
]


@pytest.mark.parametrize(("text", "key"), RULES)
def test_a_broken_rule_is_told_at_its_key(folder: Path, text: str, key: str) -> None:
    assert only_problem(folder, BASE + text).startswith(f"{key}: ")


@pytest.mark.parametrize("text", KEPT)
def test_the_edge_of_a_rule_is_allowed(folder: Path, text: str) -> None:
    load_job(write(folder, BASE + text))


def test_the_tail_follows_the_labels(folder: Path) -> None:
    for text, blocks in (("labels: server", 0), ("labels: client", 1), ("labels: client\ntail_blocks: 2", 2)):
        assert load_job(write(folder, BASE + text)).num_tail_blocks == blocks


def test_no_data_at_all_is_told(folder: Path) -> None:
    assert only_problem(folder, "model_name_or_path: m").startswith("dataset_name: no data")


def test_a_mapping_of_files_is_the_partition_files(folder: Path) -> None:
    text = "model_name_or_path: m\ndata_files: {1: a.txt, two: b.txt}\n"
    job = load_job(write(folder, text + "partition: {min_rows: 4}\ncuts: [1, 2]"))
    assert job.data_files == {"1": "a.txt", "two": "b.txt"}
    assert (job.partition.method, job.partition.min_rows) == ("files", 4)
    assert load_job(write(folder, text + "partition: {method: files}")).partition.method == "files"
    assert only_problem(folder, text + "partition: {method: iid}").startswith("partition.method: ")
    list_of_files = "model_name_or_path: m\ndata_files: [a.txt, b.txt]\n"
    assert load_job(write(folder, list_of_files)).partition.method == "iid"


def test_every_error_is_told_at_once(folder: Path) -> None:
    text = BASE + (
        "seed: true\nseed: x\nbatch_size: 4\nlearning_rate: -1\npartition: {aplha: 1, method: by_column}\n"
        "labels: client\ntail_blocks: 0\nlora_r_cut: 64\nuse_cpu: !!python/name:os.system\n"
    )
    lines = problems(folder, text, "cuts=[1, no]", "nothing", "partition.alpha=[", "rounds=0")
    told = [line.split(":")[0] for line in lines]
    assert told[:4] == [
        "seed",
        "use_cpu (line 11)",
        "nothing",
        "partition.alpha",
    ]  # the file and the overrides
    values = ["seed", "batch_size", "learning_rate", "partition.aplha", "use_cpu", "cuts[1]", "rounds"]
    rules = ["partition.column", "tail_blocks", "lora_r_cut"]  # their keys are fine, each on its own
    assert sorted(told[4:-3]) == sorted(values)
    assert told[-3:] == rules


def test_the_problems_of_a_schedule_are_told_by_its_round(folder: Path) -> None:
    text = (
        "cut_policy: {method: schedule, schedule: {first: 2, 4: [1, 2], 6: 9, 7: 1}, min_cut: 2, max_cut: 8}"
    )
    assert problems(folder, BASE + text) == [
        "cut_policy.schedule: 'first' is not the number of a round: 1, 2, ...",
        "cut_policy.schedule: round 4: needs one entry per client: clients is 5, the list has 2",
        "cut_policy.schedule: round 6: 9 is more than cut_policy.max_cut (8)",
        "cut_policy.schedule: round 7: 1 is less than cut_policy.min_cut (2)",
    ]


def test_problems_of_all_groups_are_told_at_once(folder: Path) -> None:
    text = (
        "partition: {alpha: x, method: by_column}\ncut_policy: {gamma: x, min_cut: 9, max_cut: 3, gama: 1}\n"
        "device_profiles: {a: {flops: x, flopz: 1}, b: 4}\n"
    )
    lines = problems(folder, BASE + text, "cut_policy.max_step=0", "device_profiles.c.latency_ms=-1")
    assert sorted(line.split(": ")[0] for line in lines) == [
        *("cut_policy.gama", "cut_policy.gamma", "cut_policy.max_step", "cut_policy.min_cut"),
        *("device_profiles.a.flops", "device_profiles.a.flopz", "device_profiles.b"),
        *("device_profiles.c.latency_ms", "partition.alpha", "partition.column"),
    ]


INDEPENDENT_RULES = [
    ({"labels": "client", "tail_blocks": 0}, "tail_blocks"),
    ({"lora_r_cut": 17}, "lora_r_cut"),
    ({"clients": 3, "clients_per_round": 4}, "clients_per_round"),
    ({"data_files": "a.txt"}, "dataset_name"),
    ({"partition": {"method": "by_column"}}, "partition.column"),
    ({"lr_scheduler_type": "constant", "warmup_ratio": 0.1}, "warmup_ratio"),
    ({"rounds": 2, "local_steps": 3, "warmup_steps": 7}, "warmup_steps"),
    ({"cut_policy": {"method": "schedule"}}, "cut_policy.schedule"),
]


@given(
    st.lists(st.sampled_from(INDEPENDENT_RULES), min_size=1, unique_by=lambda rule: rule[1]), st.booleans()
)
def test_rules_and_wrong_values_are_told_together(
    rules: list[tuple[dict[str, Any], str]], wrong: bool
) -> None:
    values: dict[str, Any] = {"model_name_or_path": "m", "dataset_name": "d"}
    for broken, _ in rules:
        values |= broken
    if wrong:
        values |= {"max_length": "long", "partition": {**values.get("partition", {}), "alpha": -1}}
    expected = {key for _, key in rules} | ({"max_length", "partition.alpha"} if wrong else set())
    with pytest.raises(ValidationError) as caught:
        Job.model_validate(values)
    assert {".".join(map(str, line["loc"])) for line in caught.value.errors()} == expected


# Python


def test_the_class_itself_checks_the_same_rules() -> None:
    with pytest.raises(JobError) as caught:
        Job(model_name_or_path="m", dataset_name="d", tail_blocks=1, lora_r=4, lora_r_cut=8)
    heading, tail, rank = str(caught.value).split("\n")
    assert heading == "Job: 2 problems"
    assert tail.startswith("  tail_blocks: ") and "set labels: client" in tail
    assert rank.startswith("  lora_r_cut: ")
    with pytest.raises(JobError, match="not both"):
        Job(model_name_or_path="m", dataset_name="{d}", data_files="{one per client}")


def test_paths_and_nested_models_are_welcome_from_python() -> None:
    job = Job.model_validate({"model_name_or_path": Path("m"), "data_files": {"a": Path("a.txt")}})
    assert (job.model_name_or_path, job.data_files) == ("m", {"a": "a.txt"})
    job = Job(model_name_or_path="m", data_files={"a": "a.txt"}, partition=PartitionConfig(min_rows=2))
    assert job.partition == PartitionConfig(method="files", min_rows=2)
    assert Job.model_validate(job) == job == Job.model_validate(job.model_dump())
    policy = CutPolicyConfig.model_validate({"method": "schedule", "schedule": {1: 2, 4: [1, 2, 3, 4, 5]}})
    assert policy.schedule == {"1": 2, "4": [1, 2, 3, 4, 5]}  # from Python a round may be a number
    profiles = {"old": DeviceProfile(slowdown=4)}
    job = Job(model_name_or_path="m", dataset_name="d", cut_policy=policy, device_profiles=profiles)
    assert Job.model_validate(job) == job == Job.model_validate(job.model_dump())
    raw = {"model_name_or_path": "m", "dataset_name": "d", "device_profiles": {"old": {"slowdown": 4}}}
    assert Job.model_validate(raw).device_profiles == profiles
    with pytest.raises(ValidationError, match="is not the number of a round"):
        Job.model_validate(raw | {"cut_policy": {"method": "schedule", "schedule": {0: 2}}})
    with pytest.raises(ValidationError):
        job.rounds = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Job.model_validate("a job")

"""Promises of the job file: strict values, every error at once, overrides, a written job reads back."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from splitft.errors import JobError, OutputError
from splitft.job import (
    GROUPS,
    CutPolicyConfig,
    DeviceProfile,
    Job,
    PartitionConfig,
    dump_job,
    grouped_keys,
    job_schema,
    load_job,
)
from splitft.job.recipes import recipe_path, recipes
from splitft.job.yaml import dump_yaml, parse_yaml

BASE = "model_name_or_path: m\ndataset_name: d\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """The problem lines of a job that must be refused; its heading is checked here."""
    path = write(folder, text)
    with pytest.raises(JobError) as caught:
        load_job(path, overrides)
    heading, *lines = str(caught.value).split("\n")
    assert heading == f"{path}: {len(lines)} problem{'s' if len(lines) != 1 else ''}"
    assert all(line.startswith("  ") and not line.startswith("   ") for line in lines)
    return [line.strip() for line in lines]


def only_problem(folder: Path, text: str, *overrides: str) -> str:
    lines = problems(folder, text, *overrides)
    assert len(lines) == 1, lines
    return lines[0]


# Values


def test_numbers_are_read_as_people_write_them(folder: Path) -> None:
    text = BASE + "learning_rate: 2e-4\nadam_epsilon: 1E-8\nlora_alpha: 32\nweight_decay: .1\nseed: 0\n"
    job = load_job(write(folder, text))
    assert (job.learning_rate, job.adam_epsilon, job.lora_alpha) == (2e-4, 1e-8, 32.0)
    assert (job.weight_decay, job.seed) == (0.1, 0)
    assert isinstance(job.lora_alpha, float)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('rounds: "5"', "rounds: must be an integer ≥ 1, not the string '5'"),
        ("rounds: 5.0", "rounds: must be an integer ≥ 1, not 5.0"),
        ("rounds: 010", "rounds: must be an integer ≥ 1, not the string '010'"),
        ("rounds: true", "rounds: must be an integer ≥ 1, not true"),
        ("rounds: 0", "rounds: must be an integer ≥ 1, not 0"),
        ("rounds:", "rounds: must be an integer ≥ 1, not null (no value)"),
        ("learning_rate: true", "learning_rate: must be a number > 0, not true"),
        ("learning_rate: fast", "learning_rate: must be a number > 0, not the string 'fast'"),
        ("learning_rate: .inf", "learning_rate: must be a number > 0, not inf"),
        ("learning_rate: .nan", "learning_rate: must be a number > 0, not nan"),
        ("lora_dropout: 1", "lora_dropout: must be a number ≥ 0 and < 1, not 1"),
        ("bf16: 1", "bf16: must be true or false, not 1"),
        ("bf16: yes", "bf16: must be true or false, not the string 'yes'"),
        ("seed: -1", "seed: must be an integer ≥ 0 and ≤ 4294967295, not -1"),
        ("max_length: 1", "max_length: must be an integer ≥ 2, not 1"),
        ("output_dir: ''", "output_dir: must be a string, not empty"),
        ("output_dir: 3", "output_dir: must be a string, not 3"),
        ("document_column: [a]", "document_column: must be a string or null, not a list"),
        ("cuts: two", "cuts: must be an integer ≥ 1 or a list of integers ≥ 1, not the string 'two'"),
        ("cuts: 0", "cuts: must be an integer ≥ 1 or a list of integers ≥ 1, not 0"),
        ("cuts: []", "cuts: must be an integer ≥ 1 or a list of integers ≥ 1, not an empty list"),
        ("cuts: [1, 2, 0, 3, 4]", "cuts[2]: must be an integer ≥ 1, not 0"),
        ("cuts: [1, 2, x, 3, 4]", "cuts[2]: must be an integer ≥ 1, not the string 'x'"),
        ("partition: iid", "partition: must be a mapping, not the string 'iid'"),
        ("partition: {alpha: 0}", "partition.alpha: must be a number > 0, not 0"),
        ("cut_policy: makespan", "cut_policy: must be a mapping, not the string 'makespan'"),
        ("cut_policy: {gamma: -0.5}", "cut_policy.gamma: must be a number ≥ 0, not -0.5"),
        ("cut_policy: {max_cut: 0}", "cut_policy.max_cut: must be an integer ≥ 1 or null, not 0"),
        (
            "cut_policy: {method: schedule, schedule: {1: 2, 4: four}}",
            "cut_policy.schedule.4: must be an integer ≥ 1 or a list of integers ≥ 1, not the string 'four'",
        ),
        (
            "cut_policy: {method: schedule, schedule: {4: [1, 2, 0, 1, 1]}}",
            "cut_policy.schedule.4[2]: must be an integer ≥ 1, not 0",
        ),
        (
            "cut_policy: {schedule: 4}",
            "cut_policy.schedule: must be a mapping of names to integers ≥ 1 or lists of integers ≥ 1 "
            "or null, not 4",
        ),
        (
            "cut_policy: {method: schedule, schedule: {'': 4}}",
            "cut_policy.schedule: every name in it must be a string, not empty",
        ),
        ("device_profiles: 4", "device_profiles: must be a mapping of names to mappings, not 4"),
        ("device_profiles: {old: laptop}", "device_profiles.old: must be a mapping, not the string 'laptop'"),
        ("device_profiles: {seed: 4}", "device_profiles.seed: must be a mapping, not 4"),
        ("device_profiles: {'': {}}", "device_profiles: every name in it must be a string, not empty"),
        (
            "device_profiles: {old: {availability: 2}}",
            "device_profiles.old.availability: must be a number > 0 and ≤ 1 or null, not 2",
        ),
        (
            "device_profiles: {a.b: {flops: fast}}",
            "device_profiles.a.b.flops: must be a number > 0 or null, not the string 'fast'",
        ),
        ("devices: [phone, 3, laptop, phone, phone]", "devices[1]: must be a string, not 3"),
        ("devices: {north: 3}", "devices.north: must be a string, not 3"),
        (
            "order: turn",
            "order: must be one of parallel, turns, not the string 'turn'; did you mean turns?",
        ),
        (
            "labels: clients",
            "labels: must be one of server, client, not the string 'clients'; did you mean client?",
        ),
    ],
)
def test_a_wrong_value_is_told_in_one_line(folder: Path, line: str, told: str) -> None:
    assert only_problem(folder, BASE + line) == told


def test_a_wrong_data_file_is_told_by_its_client(folder: Path) -> None:
    text = "model_name_or_path: m\ndata_files: {north: a.txt, south: 7}"
    assert only_problem(folder, text) == "data_files.south: must be a string, not 7"


def test_a_missing_model_is_told(folder: Path) -> None:
    assert only_problem(folder, "dataset_name: d").startswith("model_name_or_path: required")


# Keys


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("roundz: 3", "roundz: unknown key; did you mean rounds?"),
        ("local-steps: 3", "local-steps: unknown key; did you mean local_steps?"),
        ("Rounds: 3", "Rounds: unknown key; did you mean rounds?"),
        ("batch_size: 3", "batch_size: unknown key; did you mean per_device_train_batch_size?"),
        ("partition: {aplha: 3}", "partition.aplha: unknown key; did you mean alpha?"),
        ("alpha: 3", "alpha: unknown key; did you mean partition.alpha?"),
        ("partition: {clients: 3}", "partition.clients: unknown key; clients belongs at the top level"),
        ("gamma: 3", "gamma: unknown key; did you mean cut_policy.gamma?"),
        ("hysteresys: 3", "hysteresys: unknown key; did you mean cut_policy.hysteresis?"),
        ("cut_policy: {gama: 3}", "cut_policy.gama: unknown key; did you mean gamma?"),
        ("cut_policy: {alpha: 3}", "cut_policy.alpha: unknown key; did you mean partition.alpha?"),
        ("cut_policy: {cuts: 3}", "cut_policy.cuts: unknown key; cuts belongs at the top level"),
        (
            "cut_policy: {latency: 3}",
            "cut_policy.latency: unknown key; did you mean device_profiles.NAME.latency_ms?",
        ),
        ("partition: {gamma: 3}", "partition.gamma: unknown key; did you mean cut_policy.gamma?"),
        ("uplink_mbps: 3", "uplink_mbps: unknown key; did you mean device_profiles.NAME.uplink_mbps?"),
        (
            "device_profiles: {x: {memory: 3}}",
            "device_profiles.x.memory: unknown key; did you mean memory_gb?",
        ),
        (
            "device_profiles: {x: {use_cpu: true}}",
            "device_profiles.x.use_cpu: unknown key; use_cpu belongs at the top level",
        ),
        ("'[key]': 3", "[key]: unknown key; `splitft schema` lists every key"),
        ("zzzz: 3", "zzzz: unknown key; `splitft schema` lists every key"),
        (
            "torch_compile: false",
            "torch_compile: removed, since no measurement showed compiled blocks to pay; delete this key",
        ),
        (
            "use_liger_kernel: true",
            "use_liger_kernel: removed, since Liger's kernels were never measured; delete this key",
        ),
        ("7: 3", "7: unknown key; `splitft schema` lists every key"),
        ("rounds: 3\nseed: 1\nrounds: 3", "rounds: given twice, on lines 3 and 5; keep one"),
        (
            "partition:\n  alpha: 1.0\n  alpha: 2.0",
            "partition.alpha: given twice, on lines 4 and 5; keep one",
        ),
        ("[a]: 3", "the job (line 3): a key must be a plain name"),
    ],
)
def test_a_wrong_key_is_told_with_the_nearest_name(folder: Path, text: str, told: str) -> None:
    assert only_problem(folder, BASE + text) == told


@pytest.mark.parametrize("key", list(Job.model_fields))
def test_one_letter_lost_from_any_key_is_found_again(folder: Path, key: str) -> None:
    typo = key[:-2] + key[-1]
    assert f"{typo}: unknown key; did you mean {key}?" in problems(folder, BASE + f"{typo}: 1")


# Rules across keys

RULES = [
    ("labels: client", "tail_blocks"),
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
]
KEPT = [
    "labels: client\ntail_blocks: 1",
    "lora_r_cut: 16",
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
    "lora_r_cut_side: none",
    "padding_free: true\nserver_batch_tokens: 0",
    "order: turns\nserver_adapter: shared",
    "method: fed_lora\ncut_policy: {method: splitft}",
]


@pytest.mark.parametrize(("text", "key"), RULES)
def test_a_broken_rule_is_told_at_its_key(folder: Path, text: str, key: str) -> None:
    assert only_problem(folder, BASE + text).startswith(f"{key}: ")


@pytest.mark.parametrize("text", KEPT)
def test_the_edge_of_a_rule_is_allowed(folder: Path, text: str) -> None:
    load_job(write(folder, BASE + text))


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
        "labels: client\nlora_r_cut: 64\nuse_cpu: !!python/name:os.system\n"
    )
    lines = problems(folder, text, "cuts=[1, no]", "nothing", "partition.alpha=[", "rounds=0")
    told = [line.split(":")[0] for line in lines]
    assert told[:4] == [
        "seed",
        "use_cpu (line 10)",
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
    ({"labels": "client"}, "tail_blocks"),
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
    with pytest.raises(ValidationError) as caught:
        Job(model_name_or_path="m", dataset_name="d", labels="client", lora_r=4, lora_r_cut=8)
    assert [line["loc"] for line in caught.value.errors()] == [("tail_blocks",), ("lora_r_cut",)]
    assert "set tail_blocks to 1 or more" in str(caught.value)
    with pytest.raises(ValidationError, match="not both"):
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


# Overrides


def test_overrides_set_keys_at_every_level_in_their_order(folder: Path) -> None:
    job = load_job(
        write(folder, BASE + "partition: {method: length_dirichlet}\n"),
        [
            *("rounds=1", "rounds=2", "learning_rate=5e-5", "cuts=[1,2,3]", "clients=3"),
            *("partition.alpha=0.1", "max_eval_samples=", "bf16=true", "output_dir=runs/a=b"),
        ],
    )
    assert (job.rounds, job.learning_rate, job.cuts, job.bf16) == (2, 5e-5, [1, 2, 3], True)
    assert (job.partition.method, job.partition.alpha) == ("length_dirichlet", 0.1)
    assert (job.max_eval_samples, job.output_dir) == (None, "runs/a=b")
    job = load_job(
        write(folder, BASE),
        [
            *("cut_policy.method=schedule", "cut_policy.schedule={1: 2}", "cut_policy.schedule.4=3"),
            *("cut_policy.gamma=0", "device_profiles.old.flops=1e9", "devices=old"),
        ],
    )
    assert (job.cut_policy.schedule, job.cut_policy.gamma) == ({"1": 2, "4": 3}, 0)
    assert (job.device_profiles, job.devices) == ({"old": DeviceProfile(flops=1e9)}, "old")


def test_overrides_may_be_mappings(folder: Path) -> None:
    text = "model_name_or_path: m\n"
    job = load_job(write(folder, text), ["data_files={a: x.txt}", "data_files.b=y.txt"])
    assert job.data_files == {"a": "x.txt", "b": "y.txt"}
    assert load_job(write(folder, BASE), ["partition.alpha=2"]).partition.alpha == 2.0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rounds", "rounds: an override is written key=value"),
        ("=3", "=3: an override is written key=value"),
        ("partition.=3", "partition.=3: an override is written key=value"),
        ("rouns=3", "rouns: unknown key; did you mean rounds?"),
        ("partition.aplha=3", "partition.aplha: unknown key; did you mean alpha?"),
        ("rounds=many", "rounds: must be an integer ≥ 1, not the string 'many'"),
        ("seed.x=3", "seed.x: seed is not a mapping, so nothing can be set in it"),
        ("document_column=!!set {a}", "document_column=!!set {a}: the job (line 1): the tag"),
        ("cuts=[1, 2", "cuts: the override's value '[1, 2' is not valid YAML"),
    ],
)
def test_a_wrong_override_is_told(folder: Path, override: str, told: str) -> None:
    assert only_problem(folder, BASE + "seed: 1", override).startswith(told)


# Files


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- a\n- b\n", "the file is a list, not a mapping"),
        (b"just text", "the file is a str, not a mapping"),
        (b"a: [1\nb: 2\n", "not valid YAML: line "),
        (b"a: 1\n--- \nb: 2\n", "not valid YAML: line "),
        (b"a: \x00", "not valid YAML: "),
        (b"a: " + b"[" * 20_000, "nested too deeply"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"a: b\n" * 300_000, "is longer than"),
        (b"!!python/object/apply:os.system [echo]", "the file is empty"),
    ],
)
def test_a_file_that_is_no_job_is_refused(folder: Path, content: bytes, told: str) -> None:
    path = folder / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(JobError, match=told):
        load_job(path)


def test_a_missing_file_a_folder_and_an_unknown_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no file"):
        load_job(tmp_path / "none.yaml")
    with pytest.raises(JobError, match="cannot read"):
        load_job(tmp_path)
    with pytest.raises(JobError, match="cannot read"):
        load_job("a\0b")
    with pytest.raises(JobError, match="did you mean quickstart"):
        recipe_path("quikstart")


def test_a_byte_order_mark_is_no_part_of_a_key(folder: Path) -> None:
    assert load_job(write(folder, "\ufeff" + BASE)).dataset_name == "d"


def test_python_tags_make_nothing(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "made"
    line = f"seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{target}]]"
    assert "not allowed" in problems(folder, BASE + line)[0]
    assert not target.exists()


def test_aliases_are_refused_before_they_can_blow_up(folder: Path) -> None:
    bomb = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
    lines = problems(folder, BASE + "a0: &a0 [x]\n" + bomb)
    assert any("alias" in line for line in lines)
    assert any("alias" in line for line in problems(folder, BASE + "data_files: &x {a: *x}"))


@settings(max_examples=300)
@given(st.text(st.sampled_from("ab:-[]{}!&*,#'\"\\ \n\t\0?|>%@`1.eE~<=_")))
@example("a: !!int b")
@example("a: !!float ''")
@example("a: !!timestamp x")
@example("? !!binary x\n: y")
@example("a: " + "9" * 5000)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        value, found = parse_yaml(text)
    except ValueError as error:
        assert str(error)
    else:
        assert isinstance(found, list)
        assert value is None or isinstance(value, dict | list | str | int | float)


# Writing

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()


@given(st.dictionaries(st.text(), SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS)))
@example({"a": "2e-4", "b": "yes", "c": "010", "d": "1:30", "e": "2020-01-01", "f": "null", "g": ".5"})
@example({"<<": "<<", "=": "=", "2e-4": "!!x", "*a": "&b", "": "", "\x85": "\u2028\x07\U0001f600"})
def test_written_yaml_reads_back(value: dict[str, Any]) -> None:
    back, found = parse_yaml(dump_yaml(value))
    assert (back, found) == (value, [])
    assert repr(back) == repr(value)  # 1 == 1.0 == True, but not in their text


NAMES = st.text(min_size=1)
COUNTS = st.integers(1, 10**6)
SHARES = st.floats(0, 1, exclude_max=True)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)


@st.composite
def cut_policies(draw: st.DrawFn, clients: int) -> CutPolicyConfig:
    method = draw(st.sampled_from(["fixed", "accuracy", "splitft", "schedule", "one of my own"]))
    rounds = st.integers(1, 10**6).map(str)
    cuts = COUNTS | st.lists(COUNTS, min_size=clients, max_size=clients)
    return CutPolicyConfig(
        method=method,
        adapt_every=draw(COUNTS),
        gamma=draw(st.floats(0, allow_infinity=False)),
        max_step=draw(COUNTS),
        hysteresis=draw(st.floats(0, allow_infinity=False)),
        w_min=draw(st.floats(0, 1, exclude_min=True)),
        w_max=draw(st.floats(1, allow_infinity=False)),
        schedule=draw(st.dictionaries(rounds, cuts, min_size=1)) if method == "schedule" else None,
    )


@st.composite
def device_profiles(draw: st.DrawFn) -> DeviceProfile:
    def maybe(values: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | values)

    return DeviceProfile(
        preset=draw(NAMES),
        flops=maybe(POSITIVE),
        slowdown=draw(POSITIVE),
        uplink_mbps=maybe(POSITIVE),
        availability=maybe(st.floats(0, 1, exclude_min=True)),
    )


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Any valid job."""

    def maybe(values: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | values)

    clients, lora_r = draw(st.integers(1, 8)), draw(st.integers(1, 64))
    files = draw(st.none() | NAMES | st.lists(NAMES, min_size=1) | st.dictionaries(NAMES, NAMES, min_size=1))
    methods = ["files"] if isinstance(files, dict) else ["iid", "length_dirichlet", "dirichlet", "by_column"]
    tail = draw(st.integers(0, 2))
    scheduler = draw(st.sampled_from(["linear", "cosine", "constant", "constant_with_warmup"]))
    rounds, steps = draw(COUNTS), draw(COUNTS)
    warmup = scheduler != "constant"
    return Job(
        model_name_or_path=draw(NAMES),
        model_revision=draw(NAMES),
        adapter_name_or_path=maybe(NAMES),
        bf16=draw(st.booleans()),
        dataset_name=draw(NAMES) if files is None else None,
        data_files=files,
        document_column=maybe(NAMES),
        completion_only_loss=maybe(st.booleans()),
        max_train_samples=maybe(COUNTS),
        eval_fraction=draw(st.floats(0.001, 0.999)),
        partition=PartitionConfig(
            method=draw(st.sampled_from(methods)),  # type: ignore[arg-type]
            alpha=draw(POSITIVE),
            column=draw(NAMES),
            samples_per_client=maybe(COUNTS),
        ),
        clients=clients,
        clients_per_round=maybe(st.integers(1, clients)),
        rounds=rounds,
        local_steps=steps,
        cuts=draw(COUNTS | st.lists(COUNTS, min_size=clients, max_size=clients)),
        method=draw(st.sampled_from(["splitft", "centralized"])),
        cut_policy=draw(cut_policies(clients)),
        order=draw(st.sampled_from(["parallel", "turns"])),
        aggregation=draw(st.sampled_from(["average", "exact", "freeze_a"])),
        lora_r_cut_side=draw(st.sampled_from(["both", "client", "none"])),
        devices=maybe(
            NAMES
            | st.lists(NAMES, min_size=clients, max_size=clients)
            | st.dictionaries(NAMES, NAMES, max_size=3)
        ),
        device_profiles=draw(st.dictionaries(NAMES, device_profiles(), max_size=3)),
        labels="client" if tail else "server",
        tail_blocks=tail,
        lora_r=lora_r,
        lora_r_cut=maybe(st.integers(1, lora_r)),
        lora_alpha=draw(POSITIVE),
        lora_target_modules=maybe(NAMES | st.lists(NAMES, min_size=1)),
        learning_rate=draw(POSITIVE),
        lr_scheduler_type=scheduler,  # type: ignore[arg-type]
        warmup_ratio=draw(SHARES) if warmup else 0.0,
        warmup_steps=draw(st.integers(0, rounds * steps)) if warmup else 0,
        adam_epsilon=draw(POSITIVE),
        seed=draw(st.integers(0, 2**32 - 1)),
        output_dir=draw(NAMES),
    )


@settings(max_examples=60, deadline=None)
@given(jobs())
def test_a_written_job_reads_back_equal(folder: Path, job: Job) -> None:
    path = folder / "effective.yaml"
    dump_job(job, path)
    assert load_job(path) == job
    assert load_job(path).model_dump() == job.model_dump()


def test_a_written_job_has_every_key_in_order_under_its_heading(tmp_path: Path) -> None:
    path = tmp_path / "effective.yaml"
    dump_job(load_job("quickstart"), path)
    text = path.read_text(encoding="utf-8")
    headings = [line[2:] for line in text.splitlines()[1:] if line.startswith("# ")]
    assert headings == list(GROUPS) == list(grouped_keys())
    keys = [key for under in grouped_keys().values() for key in under]
    assert list(parse_yaml(text)[0]) == keys
    assert sorted(keys) == sorted(Job.model_fields)
    first_under = {h: text.split(f"# {h}\n")[1].split(":")[0] for h in headings}
    assert first_under == {heading: under[0] for heading, under in grouped_keys().items()}


def test_a_job_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write the job"):
        dump_job(load_job("quickstart"), tmp_path / "none" / "job.yaml")


# Schema, recipes, reference


def test_the_schema_describes_every_key() -> None:
    schema = job_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    groups = [(schema["$defs"][m.__name__], m) for m in (PartitionConfig, CutPolicyConfig, DeviceProfile)]
    for part, model in [(schema, Job), *groups]:
        assert list(part["properties"]) == list(model.model_fields)
        assert part["additionalProperties"] is False
        assert all(key.get("description") for key in part["properties"].values())
    assert schema["required"] == ["model_name_or_path"]
    assert schema["properties"]["rounds"] == {
        **{"type": "integer", "minimum": 1, "default": 10, "title": "Rounds"},
        "description": Job.model_fields["rounds"].description,
    }


@pytest.mark.parametrize("name", list(recipes()))
def test_every_recipe_is_a_described_and_complete_job(name: str) -> None:
    job = load_job(name)
    runs_without_a_network = [job.model_fallback or job.model_name_or_path]
    runs_without_a_network += [job.dataset_fallback or job.dataset_name] * (job.data_files is None)
    assert all(source and source.startswith("builtin:") for source in runs_without_a_network)
    assert job.output_dir == f"runs/{name}"
    lines = recipe_path(name).read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {recipes()[name]}"
    assert recipes()[name].endswith(".")
    assert max(map(len, lines)) <= 115


def test_the_recipes_are_those_that_the_documentation_names() -> None:
    shown = {"quickstart", "files", "labels-at-home", "instruct"}
    study = {"study-smollm2", "paper-gpt2", "paper-opt-125m", "paper-gpt-neo-125m"}
    assert set(recipes()) == shown | study


def test_the_paper_recipes_differ_in_their_model_only() -> None:
    papers = [load_job(f"paper-{short}") for short in ("gpt2", "opt-125m", "gpt-neo-125m")]
    own = ("model_name_or_path", "model_fallback", "lora_target_modules", "output_dir")
    assert len({str(job.model_dump(exclude=set(own))) for job in papers}) == 1
    for job in papers:
        assert (job.clients, job.order, job.server_adapter, job.bf16) == (5, "turns", "shared", False)
        assert (job.max_length, job.per_device_train_batch_size, job.local_steps) == (128, 4, 20)
        assert (job.lora_r, job.lora_r_cut, job.cuts, job.learning_rate) == (16, 8, 2, 5e-5)
        assert job.rounds * job.clients * job.local_steps == 1200


def test_a_file_wins_over_a_recipe_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").write_text(BASE + "rounds: 77\n")
    assert load_job("files").rounds == 77
    (tmp_path / "quickstart").mkdir()
    assert load_job("quickstart").clients == 5


def test_the_reference_page_is_up_to_date() -> None:
    script = Path(__file__).parents[2] / "docs" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page: Path = module.PAGE
    assert page.read_text(encoding="utf-8") == module.reference(), "run: python docs/make_reference.py"

"""Promises of the job file: strict values, and wrong keys told with the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_files import BASE, only_problem, problems, write

from splitft.job import Job, load_job
from splitft.job.foreign import FOREIGN


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
        ("micro_batches: 0", "micro_batches: must be one of off, auto or an integer ≥ 2, not 0"),
        ("micro_batches: 1", "micro_batches: must be one of off, auto or an integer ≥ 2, not 1; write off"),
        (
            "server_batch_tokens: 0",
            "server_batch_tokens: must be one of off, auto or an integer ≥ 1, not 0; write off",
        ),
        (
            "lora_r_cut_side: none",
            "lora_r_cut_side: must be one of both, client, not the string 'none'; write lora_r_cut: null",
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
            "codec_budget: {step_mb: 2}",
            "codec_budget: removed; delete this key: `splitft plan JOB --codecs` tries all codecs",
        ),
        (
            "torch_compile: false",
            "torch_compile: removed, since no measurement showed compiled blocks to pay; delete this key",
        ),
        (
            "use_liger_kernel: true",
            "use_liger_kernel: removed, since Liger's kernels were never measured; delete this key",
        ),
        ("num_train_epochs: 0", "num_train_epochs: must be a number > 0 or null, not 0"),
        ("modules_to_save: [lm_head]", f"modules_to_save: {FOREIGN['modules_to_save']}"),
        ("trainable_token_indices: [7]", f"trainable_token_indices: {FOREIGN['trainable_token_indices']}"),
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


def test_keys_of_other_trainers_are_no_keys_here() -> None:
    """Each is told what stands in its place; a key that is built goes from the table."""
    assert not FOREIGN.keys() & Job.model_fields.keys()


@pytest.mark.parametrize("key", list(Job.model_fields))
def test_one_letter_lost_from_any_key_is_found_again(folder: Path, key: str) -> None:
    typo = key[:-2] + key[-1]
    assert f"{typo}: unknown key; did you mean {key}?" in problems(folder, BASE + f"{typo}: 1")

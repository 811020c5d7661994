"""Promises of writing: a written job reads back equal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitft.errors import OutputError
from splitft.job import (
    CutPolicyConfig,
    DeviceProfile,
    Job,
    PartitionConfig,
    dump_job,
    grouped_keys,
    load_job,
)
from splitft.job.model import GROUPS
from splitft.job.yaml import dump_yaml, parse_yaml

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


def is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Any valid job."""

    def maybe(values: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | values)

    clients, lora_r = draw(st.integers(1, 8)), draw(st.integers(1, 64))
    files = draw(st.none() | NAMES | st.lists(NAMES, min_size=1) | st.dictionaries(NAMES, NAMES, min_size=1))
    clients = len(files) if isinstance(files, dict) else clients
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
        lora_r_cut_side=draw(st.sampled_from(["both", "client"])),
        devices=maybe(
            NAMES
            | st.lists(NAMES, min_size=clients, max_size=clients)
            | st.dictionaries(NAMES, NAMES, max_size=3)
        ),
        device_profiles=draw(st.dictionaries(NAMES, device_profiles(), max_size=3)),
        labels="client" if tail else "server",
        tail_blocks=draw(st.sampled_from([tail, None])),
        lora_r=lora_r,
        lora_r_cut=maybe(st.integers(1, lora_r)),
        lora_alpha=draw(POSITIVE),
        lora_target_modules=maybe(NAMES.filter(is_pattern) | st.lists(NAMES, min_size=1)),
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
    assert list(parse_yaml(text)[0]) == [key for key in keys if key != "dataset_text_field"]  # left open
    assert sorted(keys) == sorted(Job.model_fields)
    first_under = {h: text.split(f"# {h}\n")[1].split(":")[0] for h in headings}
    assert first_under == {heading: under[0] for heading, under in grouped_keys().items()}


def test_a_job_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the job file .* cannot be written"):
        dump_job(load_job("quickstart"), tmp_path / "none" / "job.yaml")

"""Promises of reading a job: overrides, and files that are no job."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from job_files import BASE, only_problem, problems, write

from splitft.errors import JobError
from splitft.job import DeviceProfile, load_job
from splitft.job.recipes import recipe_path
from splitft.job.yaml import parse_yaml


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

"""Promises of what is shown of jobs: the schema, the recipes, the reference page."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from job_files import BASE

from repository import ROOT
from splitft.job import CutPolicyConfig, DeviceProfile, Job, PartitionConfig, job_schema, load_job
from splitft.job.recipes import recipe_path, recipes


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
    shown = {"quickstart", "fixed-cuts", "adaptive-cuts", "two-sites", "files", "labels-at-home", "instruct"}
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
    script = ROOT / "docs" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page: Path = module.PAGE
    assert page.read_text(encoding="utf-8") == module.reference(), "run: python docs/make_reference.py"

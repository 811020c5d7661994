"""What `run` returns, as a person uses it: text, HTML, a table, a picture, the tuned model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bad_jobs import QUIET, Settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from splitft import Job, RunResult, run
from splitft.errors import JobError
from splitft.history import read_history

pytestmark = pytest.mark.pictures


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> RunResult:
    """A run with a relative folder, whose process then works in another one."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = {"model_name_or_path": str(shared / "model"), "data_files": str(shared / "rows.txt")}
        job = Job(
            **settings, clients=2, rounds=2, local_steps=6, cuts=[1, 2], lora_r=4, max_length=32,
            use_cpu=True, learning_rate=5e-3, output_dir="runs/<mine>",
            cut_policy={"method": "schedule", "schedule": {"1": [1, 2], "2": [3, 2]}},
        )  # fmt: skip
        return run(job, console=QUIET)


def test_text_and_html_are_short_and_name_the_figures(result: RunResult) -> None:
    text, html = repr(result), result._repr_html_()
    before, after = (f"{result.summary[key]:.2f}" for key in ("perplexity_before", "perplexity"))
    assert f"perplexity {before} → {after}" in text and "cuts 1→3, 2" in text
    assert len(text) < 250
    assert f"{before} → {after}" in html and "runs/&lt;mine&gt;" in html and "<mine>" not in html
    assert "data:image/png;base64," in html


def test_the_table_has_a_row_a_round_and_the_figures_of_the_history(result: RunResult) -> None:
    table = result.to_pandas()
    lines = read_history(result._cwd / result.output_dir)
    assert list(table.index) == [0, 1, 2]
    assert list(table["perplexity"]) == [line["perplexity"] for line in lines]
    assert list(table["clients/client-0/cut"]) == [1, 1, 3]
    assert table["bytes/up/activations"][2] == lines[2]["bytes"]["up"]["activations"]
    assert table["loss"].isna().tolist() == [True, False, False]


def test_the_picture_is_a_figure_that_a_notebook_shows(result: RunResult, tmp_path: Path) -> None:
    figure = result.plot()
    axes = figure.axes[0]
    drawn = [list(line.get_ydata()) for line in axes.lines]
    assert [record.perplexity for record in result.history] in drawn
    assert figure._repr_png_().startswith(b"\x89PNG")
    nothing = RunResult(tmp_path, tmp_path, [], {})
    with pytest.raises(JobError, match="no perplexity to plot"):
        nothing.plot()


def test_the_tuned_model_continues_a_prompt_as_the_libraries_do(result: RunResult, shared: Path) -> None:
    model = result.load_model()
    tokenizer = AutoTokenizer.from_pretrained(shared / "model")
    inputs = tokenizer("the people", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(shared / "model", dtype=torch.float32)
    texts = {}
    for name, whole in (("before", base), ("after", model)):
        found = whole.generate(
            **inputs, do_sample=False, max_new_tokens=12, pad_token_id=tokenizer.pad_token_id
        )
        texts[name] = tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert result.generate("the people", 12) == texts["after"]
    assert result.generate("the people", 12, disable_adapter=True) == texts["before"]
    assert texts["before"] != texts["after"]


def test_with_local_only_a_client_is_named(settings: Settings) -> None:
    result = run(Job(**settings, method="local_only"), console=QUIET)
    with pytest.raises(JobError, match="name one of client-0, client-1"):
        result.load_model()
    assert result.load_model("client-1").peft_config["default"].r == 4


def test_heavy_libraries_load_when_they_are_used() -> None:
    code = "import sys, splitft.running.result; print({'pandas', 'matplotlib', 'IPython'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "IPython" not in done.stdout and "matplotlib" not in done.stdout

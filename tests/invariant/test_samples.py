"""A run's sample continuations are those of stock peft with the adapters of its start and its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoTokenizer

from network_threads import together
from reference import make_setting, stock_model, write_rows
from splitft import Job
from splitft.data import prepare
from splitft.running.runner import run
from splitft.running.samples import NEW, PROMPT
from splitft.tools.report.page import render_page
from splitft.tools.report.runs import read_run


def settings_of(folder: Path, **changes: Any) -> dict[str, Any]:
    return make_setting(folder, "llama") | {
        "clients": 2, "cuts": [1, 2], "rounds": 1, "local_steps": 2, "warmup_steps": 0, "max_eval_samples": 8,
        "max_length": 40, "output_dir": str(folder / "run"), "num_sample_continuations": 5,
    } | changes  # fmt: skip


@pytest.mark.parametrize("padding_free", [False, True])
def test_samples_are_what_stock_peft_continues(tmp_path: Path, padding_free: bool) -> None:
    job = Job(**settings_of(tmp_path, padding_free=padding_free, learning_rate=0.05))
    result = run(job, console=Console(quiet=True))
    samples = json.loads((result.output_dir / "summary.json").read_text())["samples"]
    assert result.summary["samples"] == samples
    assert [sample["client"] for sample in samples] == ["client-0", "client-1"] * 2 + ["client-0"]

    tokenizer = AutoTokenizer.from_pretrained(job.model_name_or_path)
    rows = {client.name: iter(client.eval.input_ids) for client in prepare(job, tokenizer).clients}
    adapters = {"before": str(job.adapter_name_or_path), "after": str(result.adapter_path)}
    models = {
        side: PeftModel.from_pretrained(stock_model(job.model_name_or_path), folder)
        for side, folder in adapters.items()
    }
    for sample in samples:
        ids = next(rows[sample["client"]]).tolist()
        start = min(PROMPT, len(ids) // 2)
        assert sample["prompt"] == tokenizer.decode(ids[:start])
        assert sample["written"] == tokenizer.decode(ids[start : start + NEW], skip_special_tokens=True)
        for side, model in models.items():
            made = model.generate(input_ids=torch.tensor([ids[:start]]), max_new_tokens=NEW, do_sample=False)
            assert sample[side] == tokenizer.decode(made[0, start:], skip_special_tokens=True)
    assert any(sample["before"] != sample["after"] for sample in samples)


def test_samples_are_escaped_in_the_report_and_can_be_left_out(tmp_path: Path) -> None:
    plain = settings_of(tmp_path, num_sample_continuations=0)
    assert "samples" not in run(Job(**plain), console=Console(quiet=True)).summary
    folder = tmp_path / "run"
    assert "Sample continuations" not in render_page([read_run(folder)], files=False)
    summary = json.loads((folder / "summary.json").read_text())
    text = "<script>alert('&')</script>"
    summary["samples"] = [dict.fromkeys(("client", "prompt", "written", "before", "after"), text)]
    (folder / "summary.json").write_text(json.dumps(summary))
    page = render_page([read_run(folder)], files=False)
    assert "Sample continuations" in page
    assert page.count("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;") == 5
    assert "<script" not in page


def test_no_text_of_a_row_comes_to_a_server(tmp_path: Path) -> None:
    setting = settings_of(tmp_path, labels="server")
    del setting["output_dir"]
    files = {name: str(write_rows(tmp_path / f"{name}.txt", rows=20)) for name in ("north", "south")}
    setting |= {"data_files": files, "network": {"clients": list(files)}}
    folder = together(setting, tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["interrupted"] is False
    assert "samples" not in summary

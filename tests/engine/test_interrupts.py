"""An interrupt at any moment keeps the last whole round."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_jobs import Settings, start_splitft, write_job
from peft import AutoPeftModelForCausalLM, PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cases import rest_slow
from forks import start_command
from ports import free_port
from splitft import Job, run
from splitft.common.draining import DRAINED
from splitft.engines.local import LocalCohort


def test_ctrl_c_keeps_the_last_whole_round(settings: Settings, tmp_path: Path) -> None:
    settings |= {"rounds": 5000, "local_steps": 2, "learning_rate": 0.01}
    process = start_splitft("run", write_job(settings, tmp_path))
    out = tmp_path / "out"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (out / "history.jsonl").exists() and len((out / "history.jsonl").read_text().splitlines()) > 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert error.strip() == "error: interrupted"
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["round"] for line in lines] == list(range(len(lines)))
    assert len(lines) > 2
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert (summary["interrupted"], summary["rounds"]) == (True, len(lines) - 1)
    assert f"interrupted after round {len(lines) - 1}" in " ".join(output.split())
    live = json.loads((out / "live.json").read_text(encoding="utf-8"))
    assert (live["phase"], live["reason"]) == ("stopped", "interrupted")
    pictures = {"perplexity.png", "partition.png"}
    texts = {"job.yaml", "history.jsonl", "summary.json", "partition.json", "live.json"}
    assert {path.name for path in out.iterdir()} == pictures | texts | {"adapter", "checkpoints"}
    tensors = load_file(out / "adapter" / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    AutoPeftModelForCausalLM.from_pretrained(str(out / "adapter"))


@pytest.mark.parametrize("moment", rest_slow(["evaluate", "train", "finish", "receive"], 2))
def test_an_interrupt_at_any_moment_keeps_the_round_that_history_ends_with(
    moment: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In round 2: before it trains, while it trains, and after its adapters were averaged."""
    settings |= {"lr_scheduler_type": "constant", "learning_rate": 0.01}
    whole = run(Job(**settings), console=Console(quiet=True))
    original = getattr(LocalCohort, moment)
    rounds: list[int] = []

    def interrupted(self: LocalCohort, *args: Any, **kwargs: Any) -> Any:
        numbers = [a for a in args if isinstance(a, int)] or [m.round for m in args[0].values()]
        rounds.append(numbers[0])
        if numbers[0] == 2:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LocalCohort, moment, interrupted)
    job = Job(**{**settings, "rounds": 9, "output_dir": str(tmp_path / "interrupted")})
    with pytest.raises(KeyboardInterrupt):
        run(job, console=Console(quiet=True))
    assert max(rounds) == 2
    lines = (tmp_path / "interrupted/history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["round"] for line in lines] == [0, 1]
    got = load_file(tmp_path / "interrupted/adapter/adapter_model.safetensors")
    wanted = load_file(whole.adapter_path / "adapter_model.safetensors")
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    base = AutoModelForCausalLM.from_pretrained(settings["model_name_or_path"], dtype=torch.float32)
    PeftModel.from_pretrained(base, str(tmp_path / "interrupted/adapter"))


def test_sigterm_ends_a_party_with_a_line_and_a_code_of_its_own(tmp_path: Path) -> None:
    """Also as the first process of a container, which heeds no signal without a handler."""
    (tmp_path / "rows.txt").write_text("we the people")
    words = ["client", "--server", f"127.0.0.1:{free_port()}", "--name", "anna", "--data", "rows.txt"]
    process = start_command([*words, "--accept", "first"], tmp_path / "log", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() or "no answer" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline and process.exitcode is None
        time.sleep(0.05)
    process.terminate()
    process.join(60)
    assert process.exitcode == DRAINED
    assert "error: stopped: started again" in (tmp_path / "log").read_text()

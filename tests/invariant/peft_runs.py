"""Starts that stock peft makes for runs of its variants, and the check of what these export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from runs import Settings, base_of, perplexity, tuned
from transformers import AutoModelForCausalLM

from commands import splitft
from splitft import Job

MOVES = {"cut_policy": {"method": "schedule", "schedule": {"1": [1, 3, 2], "2": [3, 1, 1], "3": 2}}}


def stock_config(settings: Settings, **changes: Any) -> LoraConfig:
    values = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": settings["lora_target_modules"],
        "task_type": "CAUSAL_LM",
    }
    return LoraConfig(**{**values, **changes})


def started_by_peft(plain: Settings, folder: Path, job_keys: Settings, peft_keys: Settings) -> Settings:
    """The settings with these keys, from a start that stock peft has made with its own."""
    torch.manual_seed(5)
    base = AutoModelForCausalLM.from_pretrained(plain["model_name_or_path"], dtype=torch.float32)
    config = stock_config(plain, init_lora_weights=False, **peft_keys)
    get_peft_model(base, config).save_pretrained(str(folder / "start"))
    return plain | job_keys | {"adapter_name_or_path": str(folder / "start")}


def fresh(folder: Path) -> Path:
    """A folder for another run."""
    return folder / f"run{len(list(folder.iterdir()))}"


def one_client(settings: Settings) -> Settings:
    return settings | {"clients": 1, "rounds": 4, "local_steps": 3}


def check_export(job: Job, result: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock peft gives the recorded perplexity, and a merged model its logits."""
    model = tuned(job, result)
    assert perplexity(model, job) == pytest.approx(result.history[-1].perplexity, rel=1e-5)
    assert result.history[-1].perplexity != pytest.approx(result.history[0].perplexity, rel=1e-4)
    assert splitft("export", result.output_dir, folder / "merged", "--merge", monkeypatch=monkeypatch) == 0
    ids = torch.arange(2, 62).reshape(3, 20)
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32).eval()
        assert (merged(ids).logits - model(ids).logits).abs().max() <= 1e-4
        assert (merged(ids).logits - base_of(job).eval()(ids).logits).abs().max() > 1e-3

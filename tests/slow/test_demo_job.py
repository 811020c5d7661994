"""The whole demo: perplexity falls by a quarter, and stock peft sees what the run reported."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM

from splitft import load_job, run
from splitft.data import collate, prepare
from splitft.weights.hub import resolve_model
from splitft.weights.load import load_tokenizer

pytestmark = pytest.mark.slow


def test_quickstart_lowers_perplexity_and_its_adapter_is_stock_peft(tmp_path: Path) -> None:
    job = load_job("quickstart", [f"output_dir={tmp_path / 'run'}"])
    result = run(job, console=Console(quiet=True))
    assert result.summary["perplexity_change"] <= -0.25
    base = AutoModelForCausalLM.from_pretrained(resolve_model(job.model_name_or_path), dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, str(result.adapter_path)).eval()
    tokenizer = load_tokenizer(job.model_name_or_path)
    nll, tokens = 0.0, 0
    for client in prepare(job, tokenizer).clients:
        for start in range(0, len(client.eval), 8):
            rows = range(start, min(start + 8, len(client.eval)))
            batch = collate(client.eval, rows, tokenizer.pad_token_id)
            with torch.no_grad():
                output = model(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
                )
            number = int((batch.labels[:, 1:] != -100).sum())
            nll, tokens = nll + float(output.loss) * number, tokens + number
    assert math.exp(nll / tokens) == pytest.approx(result.summary["perplexity"], rel=1e-3)

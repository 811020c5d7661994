"""Models whose rotary table follows the longest row of a batch: the same function, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from runs import assert_same_bits, final_adapter
from transformers import Phi3Config, Phi3ForCausalLM

from reference import make_hybrid_setting
from splitft import Job, run
from splitft.errors import JobError
from tiny import PAD_ID, VOCAB_SIZE, save_to

QUIET = Console(quiet=True)
BORDER = 12  # tokens; rows of the data have up to 24


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny Phi-3 with a table for rows up to BORDER tokens and another one for longer rows."""
    folder = tmp_path_factory.mktemp("phi3")
    settings = make_hybrid_setting(folder)  # its data
    config = Phi3Config(
        vocab_size=VOCAB_SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, original_max_position_embeddings=BORDER,
        max_position_embeddings=128,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4,
            "long_factor": [8.0] * 4, "original_max_position_embeddings": BORDER,
        },
        bos_token_id=0, eos_token_id=0, pad_token_id=PAD_ID,
    )  # fmt: skip
    torch.manual_seed(0)
    Phi3ForCausalLM(config).save_pretrained(str(folder / "phi3"))
    return settings | {
        "model_name_or_path": str(save_to(folder / "phi3")), "lora_target_modules": ["qkv_proj"], "rounds": 1,
        "per_device_train_batch_size": 4, "max_eval_samples": 4, "codec": "none", "learning_rate": 0.01,
    }  # fmt: skip


@pytest.mark.parametrize("key", ["micro_batches", "server_batch_tokens"])
def test_batches_of_other_rows_are_refused_above_the_border(
    key: str, job: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=f"{key}: a row of more than {BORDER} tokens"):
        run(
            Job(**job, output_dir=str(tmp_path / "run"), **{key: 2 if key == "micro_batches" else 4000}),
            console=QUIET,
        )


def test_left_to_auto_they_are_off(job: dict[str, Any], tmp_path: Path) -> None:
    plain = run(Job(**job, output_dir=str(tmp_path / "plain")), console=QUIET)
    auto = {"micro_batches": "auto", "server_batch_tokens": "auto", "padding_free": False}
    left = run(Job(**job | auto, output_dir=str(tmp_path / "auto")), console=QUIET)
    padded = run(Job(**job, padding_free=False, output_dir=str(tmp_path / "padded")), console=QUIET)
    assert_same_bits(final_adapter(left), final_adapter(padded))
    assert run(Job(**job | auto, output_dir=str(tmp_path / "auto")), console=QUIET, resume=True).history
    assert plain.history[-1].perplexity == pytest.approx(padded.history[-1].perplexity, rel=1e-4)


def test_below_the_border_they_may_be_used(job: dict[str, Any], tmp_path: Path) -> None:
    short = job | {"max_length": BORDER, "padding_free": False}
    plain = run(Job(**short, output_dir=str(tmp_path / "plain")), console=QUIET)
    parts = run(Job(**short, micro_batches=2, output_dir=str(tmp_path / "parts")), console=QUIET)
    assert parts.history[-1].perplexity == pytest.approx(plain.history[-1].perplexity, rel=1e-4)

"""Tiny models, an adapter and texts for jobs of seconds: the same files at every call, without SplitFT."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from tiny import save_tiny_model

LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
GPT2_TARGETS = ["c_attn", "c_proj"]
NAMES = ["anna", "bert", "carl"]
_WORDS = ("we", "the", "people", "of", "states", "in", "order", "to", "form", "a", "more", "perfect", "union")
_DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}


def write_inputs(folder: Path) -> Path:
    """Write everything into a folder and return the folder.

    llama (6 blocks) and gpt2 (4 blocks, with dropout): Models with random weights and a tokenizer.
    adapter: A random LoRA adapter of llama, of rank 4; no part of it is zero.
    rows.txt, anna.txt, bert.txt, carl.txt: Paragraphs of very different lengths.
    sites.jsonl: Rows with the columns text and site. pairs.jsonl: Rows with prompt and completion.
    """
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # of transformers, about itself
    save_tiny_model(folder / "llama", "llama", num_hidden_layers=6, hidden_size=64)
    save_tiny_model(folder / "gpt2", "gpt2", **_DROPOUT)
    torch.manual_seed(3)
    lora = LoraConfig(
        r=4, lora_alpha=8, target_modules=LLAMA_TARGETS, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "llama", dtype=torch.float32)
    get_peft_model(model, lora).save_pretrained(str(folder / "adapter"))
    for seed, name in enumerate(["rows", *NAMES]):
        texts = _texts(60 if name == "rows" else 24, seed)
        (folder / f"{name}.txt").write_text("\n\n".join(texts), encoding="utf-8")
    sites = [{"text": text, "site": NAMES[i % 3]} for i, text in enumerate(_texts(60, 7))]
    pairs = [
        {"prompt": f"{text}:", "completion": f" {answer}"}
        for text, answer in zip(_texts(60, 8, most=8), _texts(60, 9, most=14), strict=True)
    ]
    for name, rows in (("sites", sites), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _texts(count: int, seed: int, most: int = 24) -> Sequence[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(_WORDS, size=int(rng.integers(2, most)))) for _ in range(count)]

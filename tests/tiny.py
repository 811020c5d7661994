"""Tiny tokenizers, configurations and models that the tests share; made in milliseconds, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

MODEL_TYPES = ("gpt2", "opt", "gpt_neo", "llama", "qwen3", "gemma3_text")
VOCAB_SIZE = 320
EOS, PAD = "<|endoftext|>", "<|pad|>"
EOS_ID, PAD_ID = 0, 1

# The second form marks the assistant's words, which `completion_only_loss` on messages needs.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
CHAT_TEMPLATE_WITH_MASK = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'assistant: ' }}"
    "{% generation %}{{ m['content'] + '\n' }}{% endgeneration %}"
    "{% else %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

_WORDS = (
    "the people of the united states and the congress have made a new law for the good of the nation",
    "in the year of our peace we ask that all the states hold to the rule of law and to the common good",
    "there is no task before this house that the people and their government cannot do together",
)


def tiny_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCAB_SIZE entries: any text round-trips; EOS (also BOS) is 0, PAD is 1."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_WORDS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
    )


def save_to(path: Path | str, chat_template: str | None = None) -> Path:
    """Write the tiny tokenizer into the folder `path` (made if absent)."""
    tiny_tokenizer(chat_template).save_pretrained(str(path))
    return Path(path)


def tiny_config(model_type: str, **overrides: Any) -> PreTrainedConfig:
    """A configuration of MODEL_TYPES with 4 blocks, hidden 32, 4 heads, 128 positions and no dropout.

    `overrides` take the configuration's own names or the common ones (num_hidden_layers, hidden_size, ...).
    """
    config_class = CONFIG_MAPPING[model_type]
    common = config_class.attribute_map
    overrides = {common.get(name, name): value for name, value in overrides.items()}
    blocks = overrides.get(common.get("num_hidden_layers", "num_hidden_layers"), 4)
    hidden = overrides.get(common.get("hidden_size", "hidden_size"), 32)
    return config_class(**{**_settings(model_type, blocks, hidden), **overrides})


def tiny_model(model_type: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random float32 model of `tiny_config`, in eval mode.

    Matrices are N(0, 0.1) and biases and norms are off their trivial values, so that logits depend visibly on
    every parameter; the default initialisation (0.02, zeros and ones) would hide a block that is left out.
    """
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **overrides), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # tied parameters come once
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(0.1 * noise)
            else:
                parameter.add_(0.05 * noise)
    return model.eval()


def save_tiny_model(path: Path | str, model_type: str, seed: int = 0, **overrides: Any) -> Path:
    """Write `tiny_model` and the tiny tokenizer into the folder `path`, as `from_pretrained` reads them."""
    tiny_model(model_type, seed, **overrides).save_pretrained(str(path))
    return save_to(path)


def _settings(model_type: str, blocks: int, hidden: int) -> dict[str, Any]:
    ids = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "vocab_size": VOCAB_SIZE}
    if model_type == "gpt2":
        drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        size = {"n_embd": hidden, "n_layer": blocks, "n_head": 4, "n_positions": 128}
        return {**ids, **drop, **size, "initializer_range": 0.1}
    if model_type == "opt":
        drop = dict.fromkeys(("dropout", "attention_dropout", "layerdrop"), 0.0)
        size = {
            "hidden_size": hidden,
            "word_embed_proj_dim": hidden,
            "ffn_dim": 2 * hidden,
            "num_hidden_layers": blocks,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
        }
        return {**ids, **drop, **size, "init_std": 0.1}
    if model_type == "gpt_neo":
        drop = dict.fromkeys(("resid_dropout", "embed_dropout", "attention_dropout"), 0.0)
        size = {
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_layers": blocks,
            "num_heads": 4,
            "max_position_embeddings": 128,
            "window_size": 8,  # shorter than the tests' rows, so that a wrong block index shows
            "attention_types": [[["global" if i % 2 == 0 else "local" for i in range(blocks)], 1]],
        }
        return {**ids, **drop, **size, "initializer_range": 0.1}
    size = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 128,
        "attention_dropout": 0.0,
        "initializer_range": 0.1,
    }
    if model_type == "gemma3_text":
        kinds = ["full_attention" if i % 3 == 2 else "sliding_attention" for i in range(blocks)]
        size |= {"layer_types": kinds, "sliding_window": 8, "query_pre_attn_scalar": hidden // 4}
    return {**ids, **size}

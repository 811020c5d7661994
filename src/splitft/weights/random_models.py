"""Published architectures with random weights: exact shapes for time and bytes where no hub is reachable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


BUILTIN = "builtin:"
SEED = 0  # of the weights

# The model whose shape each one has, as the hub calls it.
RANDOM_MODELS = {
    "gpt2-random": "openai-community/gpt2",
    "opt-125m-random": "facebook/opt-125m",
    "gpt-neo-125m-random": "EleutherAI/gpt-neo-125m",
}


def is_random(name: str | Path) -> bool:
    """Whether a model's name means random weights: its losses and perplexities then mean nothing."""
    text = str(name)
    return text.startswith(BUILTIN) and text.removeprefix(BUILTIN) in RANDOM_MODELS


def random_config(short: str) -> PreTrainedConfig:
    """The published configuration of the model that `short` (gpt2-random, ...) has the shape of.

    Raises KeyError for a name that is not in RANDOM_MODELS.
    """
    from transformers import GPT2Config, GPTNeoConfig, OPTConfig

    if short == "gpt2-random":
        return GPT2Config(
            vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12, dtype="float32"
        )
    if short == "opt-125m-random":
        return OPTConfig(
            vocab_size=50272,
            max_position_embeddings=2048,
            hidden_size=768,
            word_embed_proj_dim=768,
            ffn_dim=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            do_layer_norm_before=True,
            activation_function="relu",
            dropout=0.1,
            attention_dropout=0.0,
            dtype="float32",
        )
    if short == "gpt-neo-125m-random":
        return GPTNeoConfig(
            vocab_size=50257,
            max_position_embeddings=2048,
            hidden_size=768,
            intermediate_size=None,  # four times the hidden size
            num_layers=12,
            num_heads=12,
            attention_types=[[["global", "local"], 6]],  # every second block looks back 256 tokens only
            window_size=256,
            activation_function="gelu_new",
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
            dtype="float32",
        )
    raise KeyError(short)


def write_random_model(short: str, tokenizer_file: Path, folder: Path) -> None:
    """Write a model folder: the published shape, weights by the model's own initialisation, in float32.

    tokenizer_file: a GGUF file whose tokenizer is used, since none of the model's own is at hand; its
    vocabulary must fit into the model's. The weights depend on SEED and on the version of torch.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from splitft.weights.gguf_folder import write_tokenizer

    config = random_config(short)
    ids = write_tokenizer(tokenizer_file, folder, model_max_length=config.max_position_embeddings)
    for name, value in ids.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    (folder / "README.md").write_text(
        f"Written by SplitFT: the shape of {RANDOM_MODELS[short]} with random weights (seed {SEED}) and the "
        f"tokenizer of {tokenizer_file.name}. For time, memory and bytes; it has learned nothing.\n",
        encoding="utf-8",
    )

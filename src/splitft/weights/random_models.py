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

    # GPT-2 and OPT are the sizes that transformers' configurations default to.
    if short == "gpt2-random":
        return GPT2Config(dtype="float32")
    if short == "opt-125m-random":
        return OPTConfig(dtype="float32")
    if short == "gpt-neo-125m-random":
        alternating = [[["global", "local"], 6]]  # every second block looks back 256 tokens only
        return GPTNeoConfig(
            hidden_size=768, num_layers=12, num_heads=12, attention_types=alternating, dtype="float32"
        )
    raise KeyError(short)


def write_random_model(short: str, tokenizer_file: Path, folder: Path) -> None:
    """Write a model folder: the published shape, weights by the model's own initialisation, in float32.

    tokenizer_file: a GGUF file whose tokenizer is used, since none of the model's own is at hand; its
    vocabulary must fit into the model's. The weights depend on SEED and on the version of torch.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    from splitft.common.seeds import seed_torch
    from splitft.weights.gguf_folder import write_tokenizer

    config = random_config(short)
    ids = write_tokenizer(tokenizer_file, folder, model_max_length=config.max_position_embeddings)
    for name, value in ids.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        seed_torch(SEED)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    (folder / "README.md").write_text(
        f"Written by SplitFT: the shape of {RANDOM_MODELS[short]} with random weights (seed {SEED}) and the "
        f"tokenizer of {tokenizer_file.name}. For time, memory and bytes; it has learned nothing.\n",
        encoding="utf-8",
    )

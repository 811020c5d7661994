"""A Llama-type GGUF file as an ordinary Hugging Face model folder, without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from splitft.errors import ModelError

CONTROL = 3  # token type of special tokens


def convert(source: Path, folder: Path) -> None:
    """Write config, weights (float32), tokenizer and chat template of a GGUF file into `folder`.

    float32 because a 4-bit value times its scale plus its minimum has more digits than bfloat16 holds.
    Raises ModelError where the file is no Llama-type model with a byte-level BPE tokenizer.
    """
    import gguf
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    values = _values(gguf.GGUFReader(source), source)
    model = LlamaForCausalLM.from_pretrained(  # nosec B615 # a local file
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    weights, tied = model.state_dict(), bool(model.config.tie_word_embeddings)
    if tied:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _save_config(values, tied, folder)
    _save_tokenizer(values, folder, values["llama.context_length"])
    (folder / "README.md").write_text(
        f"Converted by SplitFT from {source.name}; the weights are those of the quantised file, in float32. "
        f"License: {values.get('general.license', 'see the package of that file')}.\n",
        encoding="utf-8",
    )


def write_tokenizer(source: Path, folder: Path, model_max_length: int) -> dict[str, int | None]:
    """Write a GGUF file's tokenizer alone into `folder`.

    Returns bos_token_id, eos_token_id and pad_token_id; None: it has no such token. Raises ModelError as
    `convert` does.
    """
    import gguf

    values = _values(gguf.GGUFReader(source), source)
    _save_tokenizer(values, folder, model_max_length)
    return _special_ids(values)


def _values(reader: Any, source: Path) -> dict[str, Any]:
    values = {key: field.contents() for key, field in reader.fields.items()}
    if values["general.architecture"] != "llama" or values["tokenizer.ggml.model"] != "gpt2":
        raise ModelError(f"{source}: not a Llama-type GGUF file with a byte-level BPE tokenizer")
    return values


def _special_ids(values: dict[str, Any]) -> dict[str, int | None]:
    return {
        f"{short}_token_id": values.get(f"tokenizer.ggml.{long}_token_id")
        for short, long in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }


def _save_config(values: dict[str, Any], tied: bool, folder: Path) -> None:
    from transformers import GenerationConfig, LlamaConfig

    ids = _special_ids(values)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(values["tokenizer.ggml.tokens"]),
        hidden_size=values["llama.embedding_length"],
        intermediate_size=values["llama.feed_forward_length"],
        num_hidden_layers=values["llama.block_count"],
        num_attention_heads=values["llama.attention.head_count"],
        num_key_value_heads=values["llama.attention.head_count_kv"],
        max_position_embeddings=values["llama.context_length"],
        # A float32 in the file: 9.99999975e-06 stands for 1e-05.
        rms_norm_eps=float(str(np.float32(values["llama.attention.layer_norm_rms_epsilon"]))),
        rope_parameters={"rope_type": "default", "rope_theta": values["llama.rope.freq_base"]},
        tie_word_embeddings=tied,
        dtype="float32",
        **ids,
    )
    config.save_pretrained(folder)
    GenerationConfig(**ids).save_pretrained(folder)


def _save_tokenizer(values: dict[str, Any], folder: Path, model_max_length: int) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in values["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    splits: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if values.get("tokenizer.ggml.pre") == "smollm":
        splits.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = values["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL
        ]
    )
    named = {
        f"{short}_token": tokens[values[f"tokenizer.ggml.{long}_token_id"]]
        for short, long in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{long}_token_id" in values
    }
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length,
        chat_template=values.get("tokenizer.chat_template"),
        **named,
    ).save_pretrained(folder)

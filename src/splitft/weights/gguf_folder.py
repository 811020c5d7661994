"""A Llama-type GGUF file as an ordinary Hugging Face model folder, without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitft.errors import ModelError

Weight = NDArray[np.float32]
CONTROL = 3  # token type of special tokens

# GGUF's names of a block's matrices, and transformers' names.
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def convert(source: Path, folder: Path) -> None:
    """Write config, weights (float32), tokenizer and chat template of a GGUF file into `folder`.

    float32 because a 4-bit value times its scale plus its minimum has more digits than bfloat16 holds.
    Raises ModelError where the file is no Llama-type model with a byte-level BPE tokenizer.
    """
    import gguf
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(source)
    values = _values(reader, source)
    weights: dict[str, Weight] = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        heads = {
            "attn_q": values["llama.attention.head_count"],
            "attn_k": values["llama.attention.head_count_kv"],
        }
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            weight = unpermute(weight, heads[kind])
        weights[hf_name(tensor.name)] = np.ascontiguousarray(weight, dtype=np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _save_config(values, "lm_head.weight" not in weights, folder)
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


def hf_name(name: str) -> str:
    """The name that transformers gives to a GGUF tensor: blk.3.attn_q.weight and so on."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, block, kind, suffix = name.split(".")
    return f"model.layers.{block}.{BLOCK_NAMES[kind]}.{suffix}"


def unpermute(weight: Weight, heads: int) -> Weight:
    """Rows of a query or key matrix in transformers' order.

    GGUF interleaves the two halves of each head, (heads · size/2 · 2, in); transformers rotates them as
    halves, (heads · 2 · size/2, in).
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2)
    return np.ascontiguousarray(halves).reshape(rows, columns)


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

"""What every setting of a configuration becomes in its shrunk copy, told by the role its name has.

Pure: plain dictionaries in, plain dictionaries out. No model type is known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Guess:
    """Target sizes of one attempt at a shrunk copy."""

    hidden: int = 64
    heads: int = 4
    vocab: int = 120  # no other size is 120, so that tables with one entry a token id are found
    periods: int = 1  # how many periods of the pattern of block kinds are kept
    grouped: bool = True  # keep fewer key-value heads than query heads where the original has fewer
    plain_heads: bool = False  # head size is hidden / heads, whatever the original says
    blocks: int = 0  # of the dictionary at hand, after and before
    original_blocks: int = 0
    original_hidden: int = 0  # of the text model; 0: of no model with several parts


GUESSES = (
    Guess(),
    Guess(periods=2),
    Guess(grouped=False),
    Guess(plain_heads=True),
    Guess(plain_heads=True, grouped=False),
    Guess(hidden=128, heads=8),
    Guess(hidden=128, heads=8, periods=2, grouped=False),
)

MIN_BLOCKS, MAX_BLOCKS = 4, 16
_HIDDEN = ("hidden_size", "d_model", "n_embd", "emb_dim", "embed_dim", "embedding_dim", "dim")
_HEADS = (
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "decoder_attention_heads",
    "attention_heads",
)
_BLOCKS = ("decoder_layers", "num_decoder_layers", "num_layers", "num_hidden_layers", "n_layer", "n_layers")
# The heads that a number or a size of heads belongs to, where these are not the model's own.
_HEADS_OF = {
    "swa_num_key_value_heads": "swa_num_attention_heads",
    "linear_num_key_heads": "linear_num_value_heads",
    "swa_head_dim": "swa_num_attention_heads",
    "linear_head_dim": "linear_num_heads",
    "linear_key_head_dim": "linear_num_key_heads",
    "linear_value_head_dim": "linear_num_value_heads",
    "mamba_d_head": "mamba_n_heads",
    "mamba_head_dim": "mamba_num_heads",
    "mamba_headdim": "n_mamba_heads",
}
# Widths that are a number of heads times their size.
_PRODUCTS = {"mamba_d_ssm": ("mamba_n_heads", "mamba_d_head")}

# (name pattern, role): a number caps the value, a word names a rule of _number. The first match counts.
_ROLES: tuple[tuple[re.Pattern[str], str | int], ...] = tuple(
    (re.compile(f"(?:{pattern})"), role)
    for pattern, role in (
        (r"num_nextn_predict_layers|num_mtp_layers", 0),
        (r"num_hidden_layers|n_layers?|num_layers|((en|de)coder|num_(en|de)coder)_layers|depth", "blocks"),
        (r"num_blocks|num_layers_per_stack", "blocks"),
        (r"first_k_dense_replace|num_dense_layers|max_window_layers|moe_layer_(start|end)_index", "index"),
        (r"num_kv_shared_layers", "share"),
        (r".*_token_ids?|.*_token_index|forced_\w+|begin_suppress_tokens|(bos|eos|pad|unk|mask)_index", "id"),
        (r"type_vocab_size|task_type_vocab_size", 4),
        (r"\w*vocab\w*", "vocab"),
        (r"(swa_)?num_key_value_heads|num_kv_heads|kv_n_heads|linear_num_key_heads", "grouped"),
        (r"index(er)?_n_heads|o_groups|n_groups|mamba_n_?groups", 2),
        (r"(\w+_)?(num|n)_(\w+_)?heads(_per_layer)?|n_heads?", "heads"),
        (r"(\w+_)?attention_heads|num_query_groups", "heads"),
        (r"qk_nope_head_dim", "nope"),
        (r"index(er)?_head_dim|kv_lora_rank", 16),
        (r"v_head_dim", 12),
        (r"qk_rope_head_dim|rotary_dim|qk_head_dim", "rotary"),
        (r"(attention_|global_|swa_|linear_|linear_key_|linear_value_|mamba_)?head_dim", "size_of_heads"),
        (r"attention_head_size|(mamba_)?d_head|d_kv|dim_head|kv_channels|mamba_headdim", "size_of_heads"),
        (r"q_lora_rank", 24),
        (r"\w*_rank|hc_lowrank|d_rel|(mamba_d_|ssm_)?state(_size)?", 8),
        (r"\w*experts?_per_tok(en)?|\w*top_?k|moe_k|\w*shared_experts|mtp_\w+", 2),
        (r"(moe_)?n(um)?_(routed_|local_)?experts", 4),
        (r"n_group|num_expert_group|zero_expert_num", 2),
        (r"topk_group", 1),
        (r"ngram_vocab_size_base", 64),
        (r"\w*(hidden_size|intermediate_size|ffn_dim|embed_dim|embedding_size|embedding_dim)", "width"),
        (r"\w*mid_dim|d_model|n_embd|n_inner|emb_dim|d_inner|dff|dim_ff|intermediate_size_mlp", "width"),
        (r"feed_forward_size|\w*ffn_hidden_size|word_embed_proj_dim|lru_width|mamba_d_ssm", "width"),
        (r"dim_model_base|hidden_size_global|adapter_in\w+|dim", "width"),
        (r"hidden_size_per_layer_input", 8),
        (r"original_max_position\w*", 10),
        (r"max_(source_|target_)?position\w*|n_positions|n_ctx|context_length|max_seq_len", 128),
        (r"sliding_window(_size)?|window_size|attention_window_size|local_attention_window_len", 4),
        (r"(\w+_)?chunk_size|local_attention|keep_window_size|rel_extent|block_size", 8),
        (r"index_topk|index_block_size|indexer_budget|\w*chunk_length", 4),
        (r"image_size", 32),
        (r"patch_size", 8),
    )
)
_PERIOD = re.compile(
    r"\w*(period|interval|every_n_layers|layer_group_size|first_k_dense_replace|num_dense_layers)"
)
_RANDOM = re.compile(r"\w*(dropout|pdrop|layerdrop|jitter)\w*")
_ROTARY = ("rope_parameters", "rope_scaling")


def shrink_values(values: Mapping[str, Any], guess: Guess) -> dict[str, Any]:
    """The settings of one configuration (not of its nested ones), shrunk."""
    count = _first(values, _BLOCKS) or 0
    guess = replace(guess, original_blocks=count, blocks=_kept_blocks(values, count, guess))
    if _first(values, _HEADS) == 1:
        guess = replace(guess, heads=1)
    out: dict[str, Any] = {}
    for name, value in values.items():
        if name in _ROTARY and isinstance(value, Mapping):
            out[name] = _shrink_rotary(value, values, guess)
        elif name == "per_layer_config" and isinstance(value, Mapping):
            kept = {i: o for i, o in value.items() if int(i) < guess.blocks}
            out[name] = {
                i: {k: _value(k, v, {**values, **o}, guess) for k, v in o.items()} for i, o in kept.items()
            }
        else:
            out[name] = _value(name, value, values, guess)
    for name, (heads, size) in _PRODUCTS.items():
        if {name, heads, size} <= out.keys() and values[name] == values[heads] * values[size]:
            out[name] = out[heads] * out[size]
    return out


def hidden_size(values: Mapping[str, Any]) -> int:
    """The width of a configuration's hidden states; 0 where it states none."""
    return _first(values, _HIDDEN) or 0


def _shrink_rotary(rotary: Mapping[str, Any], values: Mapping[str, Any], guess: Guess) -> dict[str, Any]:
    """Cut the lists with one entry a rotary frequency (long-context factors, sections of several axes)."""
    hidden, heads = _first(values, _HIDDEN) or guess.hidden, _first(values, _HEADS) or guess.heads
    size = values.get("head_dim") or values.get("qk_rope_head_dim") or hidden // heads
    name = "head_dim" if values.get("head_dim") or "qk_rope_head_dim" not in values else "qk_rope_head_dim"
    share = _value(name, size, values, guess) / size
    out: dict[str, Any] = {}
    for key, value in rotary.items():
        if isinstance(value, Mapping):  # one set for each kind of block
            out[key] = _shrink_rotary(value, values, guess)
        elif isinstance(value, list) and key == "mrope_section":
            total, sections = int(sum(value) * share), [max(int(item * share), 1) for item in value]
            for number in range(total - sum(sections)):  # equal sections stay equal where they can
                sections[number % len(sections)] += 1
            out[key] = [total - sum(sections[1:]), *sections[1:]]
        elif key == "original_max_position_embeddings" and rotary.get("rope_type") == "longrope":
            out[key] = min(value, 10)  # the rows of a proof lie on both sides of it
        elif isinstance(value, list):
            length = max(int(len(value) * share), 1)
            out[key] = (value * -(-length // len(value)))[:length]
        else:
            out[key] = value
    return out


def _value(name: str, value: Any, values: Mapping[str, Any], guess: Guess) -> Any:
    if isinstance(value, list | tuple):
        items = list(value)
        if _is_index_list(name, items):
            return [item for item in items if item < guess.blocks]
        if len(items) == guess.original_blocks and name != "eos_token_id":
            items = items[: guess.blocks]
        return [_value(name, item, values, guess) for item in items]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if _RANDOM.fullmatch(name):
        return type(value)(0)
    if isinstance(value, float):
        return value
    for pattern, role in _ROLES:
        if pattern.fullmatch(name):
            return min(value, role) if isinstance(role, int) else _number(role, name, value, values, guess)
    return value


def _is_index_list(name: str, items: list[Any]) -> bool:
    named = re.fullmatch(r"\w*(layer_ids|_idxs|(moe|only|attention)_layers)", name)
    return named is not None and all(isinstance(item, int) for item in items)


def _number(role: str, name: str, value: int, values: Mapping[str, Any], guess: Guess) -> int:
    hidden = _first(values, _HIDDEN) or guess.original_hidden or guess.hidden
    heads = _first(values, _HEADS) or guess.heads
    if role == "blocks":
        whole = guess.original_blocks
        return value * guess.blocks // whole if whole and value >= whole else min(value, guess.blocks)
    if role == "index":
        return min(value, guess.blocks - 1)
    if role == "share":
        return -(-value * guess.blocks // guess.original_blocks) if value else 0
    if role == "id":
        return value if value < guess.vocab // 2 else guess.vocab - 1 - value % (guess.vocab // 2)
    if role == "vocab":
        return guess.vocab
    if role == "heads":
        return guess.heads if value > 1 else 1
    if role == "grouped":
        if value >= (values.get(_HEADS_OF.get(name, "")) or heads) or not guess.grouped:
            return guess.heads
        return 1 if value == 1 else max(guess.heads // 2, 1)
    if role == "width":
        if value in (hidden, guess.original_hidden):  # the second: what another part hands to the text model
            return guess.hidden
        return max(round(value * guess.hidden / hidden / 8) * 8, 8)
    if role == "size_of_heads":
        return _size_of_heads(name, value, values, hidden, heads, guess)
    if role == "nope":  # halves stay halves: a share of the whole head turns in some types
        return 8 if value == values.get("qk_rope_head_dim") else min(value, 16)
    assert role == "rotary"
    return _rotary(name, value, values, hidden, heads, guess)


def _size_of_heads(
    name: str, value: int, values: Mapping[str, Any], hidden: int, heads: int, guess: Guess
) -> int:
    if "qk_nope_head_dim" in values and name == "head_dim":  # latent attention: one of its own parts
        nope, rope = values["qk_nope_head_dim"], values.get("qk_rope_head_dim")
        parts = {nope: _number("nope", "qk_nope_head_dim", nope, values, guess), rope: 8}
        return parts.get(value, parts[nope] + 8)
    if guess.plain_heads:
        return guess.hidden // guess.heads
    of = values.get(_HEADS_OF.get(name, "")) or heads
    size = value * of / hidden * guess.hidden / guess.heads
    return max(int(size) if size == int(size) else round(size / 4) * 4, 4)


def _rotary(name: str, value: int, values: Mapping[str, Any], hidden: int, heads: int, guess: Guess) -> int:
    if "qk_nope_head_dim" in values:
        nope = _number("nope", "qk_nope_head_dim", values["qk_nope_head_dim"], values, guess)
        return nope + 8 if name == "qk_head_dim" else 8
    size = values.get("head_dim") or hidden // heads
    shrunk = _size_of_heads("head_dim", size, values, hidden, heads, guess)
    return max(int(value * shrunk / size) // 2 * 2, 2)


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((values[name] for name in names if isinstance(values.get(name), int)), None)


def _kept_blocks(values: Mapping[str, Any], count: int, guess: Guess) -> int:
    """How many of the first of `count` blocks hold every kind of block, at the pattern's own period."""
    lists = {name: value for name, value in values.items() if isinstance(value, list)}
    indices = [v for name, v in lists.items() if _is_index_list(name, v)]
    per_block = [v for name, v in lists.items() if len(v) == count and not _is_index_list(name, v)]
    overrides: dict[str, Any] = values.get("per_layer_config") or {}
    special = {int(i): str(o) for i, o in overrides.items()}
    kinds = [(*(str(entries[i]) for entries in per_block), special.get(i)) for i in range(count)]
    needed = max((kinds.index(kind) + 1 for kind in set(kinds)), default=1)
    needed = max([needed, *(min(listed) + 2 for listed in indices if listed)])
    for name, value in values.items():
        if isinstance(value, int) and not isinstance(value, bool) and _PERIOD.fullmatch(name):
            needed = max(needed, value + (1 if "dense" in name else 0))
    shared = values.get("num_kv_shared_layers") or 0
    if 0 < shared < count:  # every kind must also come before the blocks that reuse another's keys and values
        needed = -(-needed * count // (count - shared)) + 1
    return int(min(max(needed * guess.periods, MIN_BLOCKS), MAX_BLOCKS, count))

"""Facts of a party that must be equal at server and client, or are recorded (`engines.network.sameness`)."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from splitft.engines.network.sameness import VERSION
from splitft.model.config import text_config
from splitft.model.window import block_path

PACKAGES = ("splitft", "torch", "transformers", "peft")  # that a client's results depend on
_LENGTH = 16  # hexadecimal digits of a digest
# Keys of a configuration that say how it was written, or how this process runs it.
_NOT_COMPARED = {"dtype", "torch_dtype", "transformers_version", "architectures", "use_cache", "name_or_path"}
_PROBES = ("The people of 12 states, naïve or not:\n\tx = [1.5]; # 中文 🙂", " a  b\r\n<|endoftext|>")
_WORKERS = 4


def weight_facts(model: Any, blocks: Collection[int] | None = None, *, moved: bool = False) -> dict[str, str]:
    """Return digests of each block's base weights, and of each weight outside the blocks, in their dtype.

    Args:
        blocks: Digests of these alone; None: of all blocks that are held, and of what is outside.
        moved: Adapters start as a part of the base: then the layers that have one are left out, since
            machines differ in the last bits of what is left.
    """
    inside = block_path(model) + "."
    adapted = {
        name.partition(".lora_")[0] for name, _ in model.named_parameters() if moved and ".lora_" in name
    }
    groups: defaultdict[str, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if ".lora_" in name or name.partition(".base_layer.")[0] in adapted:
            continue
        name = name.replace(".base_layer.", ".")
        if name.startswith(inside):
            number, _, rest = name.removeprefix(inside).partition(".")
            if blocks is None or int(number) in blocks:
                groups[f"block {number}"].append((rest, parameter))
        elif blocks is None:
            groups[name].append(("", parameter))
    with ThreadPoolExecutor(_WORKERS) as pool:
        return dict(zip(groups, pool.map(_digest_of, groups.values()), strict=True))


def config_facts(config: PreTrainedConfig) -> dict[str, str]:
    """Return each key of a model's configuration that decides what it computes."""
    values = text_config(config).to_dict()
    facts = {}
    for name, value in values.items():
        if name in _NOT_COMPARED or name.startswith("_"):
            continue
        text = json.dumps(value, sort_keys=True, default=str)
        facts[f"config {name}"] = (
            text if len(text) <= 80 else hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]
        )
    return facts


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return digests of a tokenizer, by its vocabulary and its ids of a few texts, and of its template."""
    seen = [sorted(tokenizer.get_vocab().items()), [tokenizer(text)["input_ids"] for text in _PROBES]]
    seen += [tokenizer.eos_token_id, tokenizer.pad_token_id]
    template = getattr(tokenizer, "chat_template", None)
    return {
        "tokenizer": _digest(json.dumps(seen).encode()),
        "chat template": _digest(json.dumps(template, sort_keys=True).encode()) if template else "none",
    }


def version_facts() -> dict[str, str]:
    """Return the versions of packages, of Python and of the kind of machine."""
    found = {f"{VERSION}{name}": version(name) for name in PACKAGES}
    return found | {f"{VERSION}python": platform.python_version(), f"{VERSION}machine": platform.machine()}


def data_digest(*sides: Any) -> str:
    """Return a digest of a client's rows, which never leaves the client. sides: `data.rows.Rows`."""
    digest = hashlib.sha256()
    for rows in sides:
        digest.update(b"rows %d" % len(rows))
        for ids, labels in zip(rows.input_ids, rows.labels, strict=True):
            digest.update(b"%d " % len(ids) + ids.tobytes() + labels.tobytes())
    return digest.hexdigest()


def _digest_of(parameters: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters, key=lambda one: one[0]):
        values = parameter.detach()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        if type(values.data) in (Tensor, torch.nn.Parameter) or values.dtype is torch.uint8:
            digest.update(values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_LENGTH]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_LENGTH]

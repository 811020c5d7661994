"""Load a model, whole or only the blocks that a party holds; shards that are not needed are not opened."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from splitft.common.text import error_line, one_line
from splitft.errors import ModelError
from splitft.model.config import count_blocks, text_config
from splitft.model.window import install_window
from splitft.weights.hub import INDEX, SINGLE, hub_or_cache, locator, no_model, resolve_model
from splitft.weights.kinds import causal_class, refuse_other_kinds
from splitft.weights.partial import needed_keys, partial_class, prove_parts, spread_habits
from splitft.weights.quantized import finish_loading, quantization, read_dequantized

_LOADING = RLock()  # held while one thread loads, since transformers then changes its own classes
_CONFIGS = ("config.json", "generation_config.json")
_SAVE_TOKENIZER = "A model's folder needs a tokenizer.json, as tokenizer.save_pretrained writes it"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def load_config(name: str | Path, revision: str = "main") -> PreTrainedConfig:
    """Read a model's configuration; no weights are touched.

    Losses of mixture-of-experts routers are turned off: they do not cross a cut, and LoRA freezes routers.
    Raises ModelError where it cannot be had, where the model is no next-token model, and where no job trains
    on the quantisation that it states.
    """
    folder = _config_folder(name, locator(resolve_model(name), revision))
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # nosec B615 # a local folder
    except Exception as error:  # a foreign file may raise anything
        raise ModelError(f"the configuration of {name} cannot be used: {one_line(error)}") from error
    refuse_other_kinds(name, config)
    read_dequantized(config)
    text = text_config(config)
    for part in (config, text):
        if getattr(part, "output_router_logits", False):
            part.output_router_logits = False
    for key in ("dtype", "quantization_config"):  # of a composite, stated at its top alone
        if getattr(text, key, None) is None and getattr(config, key, None) is not None:
            setattr(text, key, getattr(config, key))
    return config


def load_tokenizer(
    name: str | Path, revision: str = "main", beside: Path | None = None
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; without a padding token it pads with the end-of-text token.

    beside: the folder of an adapter, whose own tokenizer is taken if it has one.
    """
    if beside is not None and (beside / "tokenizer_config.json").is_file():
        source: Path | str = beside
    else:
        source = resolve_model(name)
        _config_folder(name, locator(source, revision))
    reach = hub_or_cache(source, revision) if isinstance(source, str) else nullcontext()
    try:
        with reach:
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"the tokenizer of {name} cannot be loaded: {one_line(error)}. {_SAVE_TOKENIZER}"
        ) from error
    return ready_tokenizer(tokenizer, str(name))


def ready_tokenizer(
    tokenizer: PreTrainedTokenizerBase, name: str = "the model given"
) -> PreTrainedTokenizerBase:
    """Return a tokenizer that can pad. Raises ModelError where it has no vocabulary or no padding."""
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what comes of a folder without its files
        raise ModelError(f"the tokenizer of {name} has no vocabulary. {_SAVE_TOKENIZER}")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"the tokenizer of {name} has no padding and no end-of-text token: add one and save it"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name: str | Path,
    *,
    blocks: Collection[int] | None = None,
    head: bool = True,
    outside: bool = True,
    revision: str = "main",
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Load a model, or only some of its blocks, in eval mode.

    blocks: those to hold, with the window installed for `run_blocks`; None: the whole model.
    head: with `blocks`, whether to hold the output head, too (the loss needs it).
    outside: with `blocks`, whether to hold what lies beside the blocks: no for blocks that join others.
    Only shards with needed tensors are fetched and opened. Raises ModelError where a block does not exist,
    tensors are not in the checkpoint's safetensors, or the model type cannot be held in parts.
    """
    with _LOADING:
        whole_config = load_config(name, revision)
        model_class, config = causal_class(whole_config)
        locate = locator(resolve_model(name), revision)
        if blocks is None:
            folder, weight_map = find_weights(name, locate)
            for file in sorted(set((weight_map or {}).values())):
                _shard(name, file, locate)
            return _from_folder(name, model_class, folder, config, dtype, attn_implementation)
        # The blocks, and a proof that this model type can be held in parts.
        held, count = frozenset(blocks), count_blocks(config)
        if not held or not held <= set(range(count)):
            raise ModelError(f"blocks {sorted(held)} cannot be held: {name} has blocks 0 to {count - 1}")
        cut = next((i for i in range(1, count) if (i in held) != (i - 1 in held)), count - 1)
        habits, small = prove_parts(whole_config, cut, dtype)
        # Their files, in a folder that shows no others.
        folder, weight_map = find_weights(name, locate)
        view: AbstractContextManager[Path] = nullcontext(folder)
        if weight_map is not None:
            with torch.device("meta"):
                whole = model_class._from_config(config)
            keys = needed_keys(weight_map, whole, held, head=head, outside=outside)
            needed = {key: weight_map[key] for key in keys}
            files = [_shard(name, file, locate) for file in sorted(set(needed.values()))]
            view = _view(needed, files + [path for path in map(locate, _CONFIGS) if path is not None])
        part_class = partial_class(model_class, held, head=head, outside=outside)
        with view as shown:
            model = _from_folder(name, part_class, shown, config, dtype, attn_implementation)
        install_window(model, spread_habits(habits, small, model))
        return model


def _config_folder(name: str | Path, locate: Callable[[str], Path | None]) -> Path:
    path = locate("config.json")
    if path is None:
        raise ModelError(f"{name} {no_model(locate)}")
    return path.parent


def find_weights(
    name: str | Path, locate: Callable[[str], Path | None]
) -> tuple[Path, dict[str, str] | None]:
    """Return the folder of a model's weights, and the file of each tensor; None: all are in one file."""
    index = locate(INDEX)
    if index is not None:
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = {str(file) for file in weight_map.values()}
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{INDEX} of {name} cannot be read ({error!r}): save or fetch the model again"
            ) from error
        wrong = [file for file in files if Path(file).name != file or not file.endswith(".safetensors")]
        if wrong:
            raise ModelError(
                f"{INDEX} of {name} names {wrong[0]!r}: only safetensors files beside it are read"
            )
        return index.parent, {str(key): str(file) for key, file in weight_map.items()}
    single = locate(SINGLE)
    if single is not None:
        return single.parent, None
    if any(locate(file) is not None for file in _PICKLED):
        raise ModelError(
            f"{name} has only pickled weights (pytorch_model.bin), which can run code when they are read. "
            "If you trust it, convert it: AutoModelForCausalLM.from_pretrained(…).save_pretrained(folder) "
            "writes safetensors"
        )
    raise ModelError(f"{name} has no {SINGLE} and no {INDEX}: name a folder or a hub id with weights")


def _shard(name: str | Path, file: str, locate: Callable[[str], Path | None]) -> Path:
    path = locate(file)
    if path is None:
        raise ModelError(f"{name} lacks {file}, which its index names: save or fetch the model again")
    return path


@contextmanager
def _view(needed: dict[str, str], files: list[Path]) -> Iterator[Path]:
    """A folder that shows only these files of a model, with an index of only these tensors."""
    with tempfile.TemporaryDirectory(prefix="splitft-") as folder:
        view = Path(folder)
        for file in files:
            try:
                (view / file.name).symlink_to(file.resolve())
            except OSError:  # a system without links
                shutil.copyfile(file, view / file.name)
        index = {"metadata": {}, "weight_map": needed}
        (view / INDEX).write_text(json.dumps(index), encoding="utf-8")
        yield view


def _from_folder(
    name: str | Path,
    model_class: Any,
    folder: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    attn_implementation: str | None,
) -> PreTrainedModel:
    found = quantization(config)
    chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    try:
        model, info = model_class.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **chosen
        )
    except Exception as error:  # torn files, foreign configurations, missing kernels
        raise ModelError(f"{name} cannot be loaded: {error_line(error)}") from error
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise ModelError(
            f"the checkpoint of {name} lacks {len(missing)} tensors, such as {missing[0]}. Where blocks "
            "share weights, hold these blocks together, or the whole model"
        )
    if found is not None:
        finish_loading(model, found, dtype)
    loaded: PreTrainedModel = model.eval()
    return loaded

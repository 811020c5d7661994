"""The tuned model: a base with an adapter on it, by stock peft, and its continuations of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from splitft.common.quiet import quiet_libraries
from splitft.running.given import frozen_copy
from splitft.weights.load import load_model, load_tokenizer
from splitft.weights.quantized import quantization


def load_tuned(adapter: Path, *, base: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    """Return the PeftModel of an adapter's folder, in eval mode, on the base that the folder names.

    base: a model object in its place, which stays as it is.
    """
    from peft import PeftConfig, PeftModel

    quiet_libraries()
    config = PeftConfig.from_pretrained(str(adapter))
    if base is None:
        name = str(config.base_model_name_or_path)
        base = load_model(name, revision=config.revision or "main", dtype=dtype)
    else:
        base = frozen_copy(base, own_weights=True)
        base = base if quantization(base.config) else base.to(dtype)
    return PeftModel.from_pretrained(base, str(adapter)).eval()


def continue_text(
    model: Any,
    adapter: Path,
    prompt: str | Sequence[Mapping[str, str]],
    disable_adapter: bool,
    options: Mapping[str, Any],
) -> str:
    """Return the text that a PeftModel generates after a prompt; see `RunResult.generate`.

    adapter: its folder.
    """
    base = model.peft_config["default"].base_model_name_or_path
    tokenizer: Any = load_tokenizer(base, beside=adapter)
    if isinstance(prompt, str):
        inputs = tokenizer(prompt, return_tensors="pt")
    else:
        inputs = tokenizer.apply_chat_template(
            list(prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items() if name != "token_type_ids"}
    options = {"do_sample": False, "pad_token_id": tokenizer.pad_token_id, **options}
    with model.disable_adapter() if disable_adapter else nullcontext(), torch.no_grad():
        found = model.generate(**inputs, **options)
    return str(tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

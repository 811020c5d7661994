"""A model class that holds only some of its blocks; the stock from_pretrained loads it."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from splitft.common.text import error_line
from splitft.errors import ModelError
from splitft.model.config import count_blocks
from splitft.model.window import (
    Habits,
    call_model,
    find_blocks,
    install_window,
    learn_habits,
    run_blocks,
)
from splitft.weights.kinds import sees_images
from splitft.weights.shrink import shrink_config, tiny_random_model

# Names that checkpoints put before, or leave out before, the block list of a text model.
_BASES = {"model", "transformer", "decoder", "language_model", "backbone"}


class _NotHeld(nn.Module):
    """Stands where something is that this party does not hold; has no parameters."""

    def forward(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("this part of the model is not held here")


def partial_class(model_class: Any, held: Collection[int], *, head: bool, outside: bool = True) -> Any:
    """A subclass of a causal-LM class whose blocks outside `held` are placeholders without parameters.

    Without `head` an untied output head is dropped; without `outside` everything beside the blocks.
    """

    class HeldPart(model_class):  # type: ignore[misc]
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            drop_parts(self, held, head=head, outside=outside)

    for name in ("__name__", "__qualname__", "__module__"):
        setattr(HeldPart, name, getattr(model_class, name))
    return HeldPart


def drop_parts(model: Any, held: Collection[int], *, head: bool, outside: bool = True) -> None:
    """Replace, in place, what a party does not hold by placeholders without parameters.

    outside: whether it holds embeddings and norms beside the blocks.
    """
    _, _, blocks = find_blocks(model)
    for index, block in enumerate(blocks):
        if index not in held:
            blocks[index] = _placeholder(block)
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    output = model.get_output_embeddings()
    drop_vision(model)
    if output is not None and not head:
        own = {f"{_name_of(model, output)}.{name}" for name, _ in output.named_parameters()}
        if not own & {*tied, *tied.values()}:
            model.set_submodule(_name_of(model, output), _loaded(_NotHeld()))
    if not outside:
        _drop_outside(model, blocks)
    left = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    model.all_tied_weights_keys = {k: v for k, v in tied.items() if k in left and v in left}
    # The checkpoint holds more than this party. Patterns: a set, or a list in old transformers.
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None)
    kind = list if patterns is None else type(patterns)
    model._keys_to_ignore_on_load_unexpected = kind([".*"])


def _drop_outside(model: Any, blocks: nn.ModuleList) -> None:
    """Replace, in place, every module with weights of its own outside the blocks."""
    inside = {id(module) for module in blocks.modules()}
    own = [
        name
        for name, module in model.named_modules()
        if name and id(module) not in inside and next(module.parameters(recurse=False), None) is not None
    ]
    for name in own:
        if not any(name.startswith(f"{other}.") for other in own):
            model.set_submodule(name, _loaded(_NotHeld()))


def drop_vision(model: Any) -> None:
    """Replace, in place, what lies beside a vision-language model's decoder: no text comes through it."""
    output = model.get_output_embeddings()
    if output is None or not sees_images(model.config):
        return
    decoder = find_blocks(model)[0]
    kept = {id(module) for module in (decoder, output, model.get_input_embeddings())}
    path = _name_of(model, decoder).split(".")
    for depth in range(len(path)):
        parent = model.get_submodule(".".join(path[:depth]))
        for name, child in parent.named_children():
            if name != path[depth] and not kept & {id(module) for module in child.modules()}:
                setattr(parent, name, _loaded(_NotHeld()))


def needed_keys(
    keys: Iterable[str], whole: Any, held: Collection[int], *, head: bool, outside: bool = True
) -> set[str]:
    """The checkpoint's tensors that a party may need: all but those that surely belong to what it drops.

    `whole`: the model on the meta device; it is cut down in place. Checkpoints name tensors with or without
    the base model's prefix (h.0.… or transformer.h.0.…).
    """
    parent, attribute, _ = find_blocks(whole)
    path = _name_of(whole, parent).split(".")
    before = set(whole.state_dict())
    drop_parts(whole, held, head=head, outside=outside)
    inside = ".".join([*path, attribute]).lstrip(".") + "."
    gone = {name for name in before - set(whole.state_dict()) if not name.startswith(inside)}
    bases = _BASES | set(path) | {""}
    pattern = re.compile(rf"^((?:\w+\.)*?){re.escape(attribute)}\.(\d+)\.")

    def needed(key: str) -> bool:
        block = pattern.match(key)
        if block and set(block[1].split(".")) <= bases:
            return int(block[2]) in held
        return not any(key == name or name.endswith("." + key) or key.endswith("." + name) for name in gone)

    return {key for key in keys if needed(key)}


def prove_parts(config: Any, cut: int, dtype: torch.dtype) -> tuple[Habits, Any]:
    """Prove on a small copy that a model type can be held in parts, and learn how its blocks answer.

    Returns the copy's habits and the copy, for `spread_habits`. Raises NotBuiltError where no small copy can
    be built, and ModelError where front and trunk, held apart, differ from the whole.
    """
    small = tiny_random_model(shrink_config(config)).to(dtype)
    front, trunk = copy.deepcopy(small), copy.deepcopy(small)
    habits, count, ids = learn_habits(small), count_blocks(small.config), torch.arange(4, 10)[None]
    cut, problem = min(cut, count - 1), ""
    try:
        drop_parts(front, range(cut), head=False)
        drop_parts(trunk, range(cut, count), head=True)
        install_window(front, habits)
        install_window(trunk, habits)
        with torch.no_grad():
            hidden = run_blocks(front, 0, cut, input_ids=ids)
            logits = run_blocks(trunk, cut, count, hidden=hidden, input_ids=ids).logits
            if not torch.equal(logits, call_model(small, input_ids=ids).logits):
                problem = "a small copy held in parts gives other results than whole"
    except Exception as error:  # whatever a foreign model may raise
        problem = error_line(error)
    if problem:
        raise ModelError(
            f"model type {small.config.model_type!r} cannot be held in parts ({problem}): load it whole"
        )
    return habits, small


def spread_habits(habits: Habits, small: Any, model: Any) -> Habits:
    """The habits of a model whose blocks have the classes, by name, that the small copy's blocks have."""
    names = [type(block).__name__ for block in find_blocks(small)[2]]
    answers = dict(zip(names, habits.answers, strict=True))
    blocks = find_blocks(model)[2]
    return replace(
        habits,
        answers=tuple(answers.get(type(block).__name__, habits.answers[-1]) for block in blocks),
        wide=frozenset(range(min(habits.wide, default=len(blocks)), len(blocks))),
    )


def _placeholder(block: nn.Module) -> nn.Module:
    """An empty module of the block's own class, with the plain attributes that a forward may read off it."""
    kind = type(block)
    empty = type(kind.__name__, (_NotHeld, kind), {"__module__": kind.__module__})
    placeholder: nn.Module = object.__new__(empty)
    nn.Module.__init__(placeholder)
    for name, value in vars(block).items():
        if not name.startswith("_") and (value is None or isinstance(value, str | int | float | bool)):
            setattr(placeholder, name, value)
    return _loaded(placeholder)


def _loaded(module: nn.Module) -> nn.Module:
    """Keep from_pretrained from initialising a module that has nothing to initialise."""
    vars(module)["_is_hf_initialized"] = True
    return module


def _name_of(model: nn.Module, wanted: nn.Module | None) -> str:
    return next((name for name, module in model.named_modules() if module is wanted), "")

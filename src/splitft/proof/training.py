"""Prove a training step: with adapters, in train mode, split against whole; every adapter gradient counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from splitft.model.slots import AdapterSlots
from splitft.model.split_model import ServerInputs
from splitft.model.window import find_blocks
from splitft.proof.compare import compare, run_split, run_whole
from splitft.proof.harness import make_rows, problem_of, random_adapter


def try_training(
    model: Any,
    slots: AdapterSlots,
    cuts: Sequence[int],
    server_inputs: ServerInputs = "dummy_ids",
    tail: int | None = None,
    seed: int = 0,
) -> str:
    """Return an empty string where a split step trains as the whole model's does, else the reason why not.

    Compared at the lowest and the highest of the cuts, with adapters whose B is not zero: logits, loss, the
    gradient at the cut and of every adapter. The adapters that are bound to the model afterwards are random.

    tail: First block of the tail; None: there is none.
    """
    slots.bind(random_adapter(slots.layout, seed, trained=True))
    mode = model.training
    try:
        with _train_mode(model, seed):
            return problem_of(lambda: _compare(model, sorted(set(cuts)), server_inputs, tail, seed))
    finally:
        model.train(mode)


def _compare(
    model: Any, cuts: Sequence[int], server_inputs: ServerInputs, tail: int | None, seed: int
) -> str:
    rows = make_rows(model, seed=seed)
    tried = [cuts[0], *cuts[1:][-1:]]
    whole, again = (run_whole(model, rows, tried) for _ in range(2))
    noise = compare(whole, again, tried[0], "").gradients
    if not any(gradient is not None and bool(gradient.any()) for gradient in whole.gradients):
        return "no adapter gets a gradient"
    for cut in tried:
        split = run_split(model, rows, cut, tail if tail and tail > cut else None, server_inputs)
        found = compare(whole, split, cut, f"a training step at cut {cut}", noise)
        if found.problem:
            return found.problem
    return ""


@contextmanager
def _train_mode(model: Any, seed: int) -> Iterator[None]:
    """Train, with the same dropout in a block however often and from wherever it is called."""

    def reseed(number: int) -> Any:
        def hook(_module: Any, _args: Any) -> None:
            torch.manual_seed(seed + number)

        return hook

    with ExitStack() as hooks:
        for number, block in enumerate(find_blocks(model)[2]._modules.values()):
            if block is not None:
                hooks.callback(block.register_forward_pre_hook(reseed(number + 1)).remove)
        hooks.callback(model.register_forward_pre_hook(reseed(0)).remove)
        model.train()
        yield

"""What all proofs share: rows to run, the difference of two results, and errors of a foreign model as text.

Each proof answers with a problem: a sentence, or an empty string where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitft.common.text import error_line
from splitft.lora.blocks import Adapter, Layout
from splitft.model.config import text_config
from splitft.model.head import IGNORE
from splitft.model.split_model import ServerInputs

_TRIED_IDS = 2000  # of a vocabulary, from the first on
_NEGLIGIBLE = 1e-6  # of the longest tensor: what is left of sums that cancel out


@dataclass(frozen=True)
class ProbeRows:
    """Samples of random text, laid out for a model: (batch, seq) each."""

    lengths: tuple[int, ...]  # of the samples
    input_ids: Tensor
    labels: Tensor
    valid: Tensor  # False on padding
    inputs: Mapping[str, Any]  # attention_mask, or position_ids of samples that share a row

    def pick(self, values: Tensor) -> Tensor:
        """Return the valid positions of (batch, seq, …) as (tokens, …); all where the shape is another."""
        values = values.detach()
        return values[self.valid] if values.shape[:2] == self.valid.shape else values

    def at_server(self, server_inputs: ServerInputs) -> Tensor | None:
        """Return the ids that a server is given; None: dummy ids."""
        return self.input_ids if server_inputs == "input_ids" else None

    def with_gaps(self) -> ProbeRows:
        """Return the same rows with every fourth token of a row without a label."""
        labels = self.labels.clone()
        labels[:, 3::4] = IGNORE
        return replace(self, labels=labels)


def make_rows(model: nn.Module, lengths: Sequence[int] = (12, 7), seed: int = 0) -> ProbeRows:
    """Draw a row of random tokens for each length, none of them special and none that dummy ids may take."""
    text = text_config(model)
    special = {0, 1, 2, 3} | _special_ids(model.config) | _special_ids(text)
    candidates = torch.tensor([i for i in range(min(int(text.vocab_size), _TRIED_IDS)) if i not in special])
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    ids = candidates[torch.randint(len(candidates), shape, generator=generator)]
    valid = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    pad = getattr(text, "pad_token_id", None)
    ids[~valid] = pad if isinstance(pad, int) and 0 <= pad < text.vocab_size else 0
    labels = ids.masked_fill(~valid, IGNORE)
    ids, labels, valid = (t.to(next(model.parameters()).device) for t in (ids, labels, valid))
    return ProbeRows(tuple(lengths), ids, labels, valid, {"attention_mask": valid.long()})


def _special_ids(config: Any) -> set[int]:
    found: set[int] = set()
    for name, value in vars(config).items():
        if name.endswith(("token_id", "token_index", "_token_ids")):
            found |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    return found


def loss_of(out: Any, rows: ProbeRows) -> Tensor:
    """Return the model's own loss, or next-token cross-entropy where the model computes none."""
    if getattr(out, "loss", None) is not None:
        loss: Tensor = out.loss
        return loss
    targets = rows.labels[:, 1:].flatten()
    return functional.cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), targets)


def differences(pairs: Sequence[tuple[Tensor | None, Tensor | None]], order: float = math.inf) -> list[float]:
    """Return for each (wanted, found) the length of the difference relative to that of `wanted`.

    order: of the norm: inf takes the largest entry, 2 the Euclidean length. None stands for zeros. Lengths
    below a millionth of the longest count as that much. Infinite where shapes differ, or a value is no
    number.
    """
    lengths = [_length(wanted, order) for wanted, _ in pairs]
    floor = _NEGLIGIBLE * max(lengths, default=0.0)
    found = []
    for (wanted, other), length in zip(pairs, lengths, strict=True):
        if wanted is None or other is None:
            given = other if wanted is None else wanted
            apart = 0.0 if given is None or not given.any() else math.inf
        else:
            apart = distance(wanted, other, order) / (max(length, floor) or 1.0)
        found.append(math.inf if math.isnan(apart) else apart)
    return found


def difference(wanted: Tensor, found: Tensor, order: float = math.inf) -> float:
    """Return the difference of two tensors, as `differences` does of several pairs."""
    return differences([(wanted, found)], order)[0]


def distance(wanted: Tensor, found: Tensor, order: float = math.inf) -> float:
    """Return the length of the difference; infinite where shapes differ, or a value is no number."""
    if wanted.shape != found.shape:
        return math.inf
    length = _length(found.float() - wanted.float(), order)
    return math.inf if math.isnan(length) else length


def _length(tensor: Tensor | None, order: float) -> float:
    if tensor is None or not tensor.numel():
        return 0.0
    return float(torch.linalg.vector_norm(tensor.float(), order))


def tolerance(dtype: torch.dtype, exact: float, roundings: float) -> float:
    """Return the largest relative difference that may pass.

    exact: for a dtype that rounds less; roundings: for one that rounds more, in units of its precision.
    """
    return max(exact, roundings * torch.finfo(dtype).eps)


def random_adapter(
    layout: Layout, seed: int, device: torch.device | None = None, *, trained: bool = False
) -> Adapter:
    """Return an adapter that changes what a model computes: neither A nor B is zero.

    trained: its tensors require a gradient.
    """
    generator = torch.Generator().manual_seed(seed)

    def tensor(shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator) * 0.3 / math.sqrt(max(shape))
        return nn.Parameter(values.to(device), requires_grad=trained)

    return {block: {spec.name: tensor(spec.shape) for spec in specs} for block, specs in layout.items()}


def problem_of(proof: Callable[[], str], where: str = "") -> str:
    """Return the problem that a proof finds, or the error of a foreign model in it, told after `where`."""
    try:
        return proof()
    except Exception as error:  # a foreign model may raise anything
        return f"{where}{error_line(error)}"


def kept_random_state() -> AbstractContextManager[None]:
    """Leave the caller's random state as it was, on the CPU and the current accelerator."""
    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else [])

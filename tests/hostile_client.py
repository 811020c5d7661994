"""A hostile client: it speaks the protocol by the project's own Dialler and Site, and deviates in named ways.

Each way says what it sends, in which jobs, and what becomes of it: the reason for which it is expelled, or
None where what it does is bounded instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from network_threads import Tamper
from splitft.engines.network.control import Ready, Saved, Worked, packed
from splitft.wire.messages import Activations, AdapterUp, Metrics, TailGradients

LABELS = {"server": {"labels": "server", "tail_blocks": 0}, "client": {"labels": "client", "tail_blocks": 1}}
TRUNKS = {"per_client": {}, "shared": {"server_adapter": "shared"}}


@dataclass(frozen=True)
class Way:
    """One way to be hostile. make: returns what a client sends in place of its messages."""

    make: Callable[[], Tamper]
    reason: str | None  # pattern of the reason for which it is expelled; None: it is not
    labels: tuple[str, ...] = ("server", "client")
    trunks: tuple[str, ...] = ("per_client", "shared")
    job: dict[str, Any] = field(default_factory=dict)


def on(kind: type, change: Callable[[Any], Any], where: Callable[[Any], bool] = lambda m: True) -> Tamper:
    """Change the messages of one kind, where that holds of them."""
    return lambda m: [change(m) if isinstance(m, kind) and where(m) else m]


def lies(**changes: Any) -> Callable[[], Tamper]:
    """Report other sums over held-out rows: {field: function of the message}."""

    def lie(message: Metrics) -> Metrics:
        return replace(message, **{name: value(message) for name, value in changes.items()})

    return lambda: on(Metrics, lie)


def mixed(message: Activations, width: int, labels: Callable[[torch.Tensor], torch.Tensor]) -> Activations:
    """A batch of a sample that the server keeps, and of new ones of another form."""
    lengths = (4, 4)
    return replace(
        message,
        samples=(FIRST, 1 << 40),
        lengths=(FIRST_LENGTH, 4),
        hidden=torch.randn(4, width),
        labels=labels(torch.full((sum(lengths) - 4,), 5, dtype=torch.int32)),
        loss_tokens=0,
        grad_norms=message.grad_norms,
    )


FIRST, FIRST_LENGTH = 1 << 41, 4  # a sample that the hostile client makes up


def after_made_up(width: int, labels: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Tamper]:
    """Send a made-up sample whole in the first batch, and in the second one beside an ill-formed new one."""

    def change(message: Activations) -> Activations:
        if message.step:
            return mixed(message, width, labels)
        ids = torch.full((FIRST_LENGTH,), 5, dtype=torch.int32)
        return replace(
            message, samples=(FIRST,), lengths=(FIRST_LENGTH,), hidden=torch.randn(4, 32), labels=ids
        )

    return lambda: lambda m: [packed(change(m)) if isinstance(m, Activations) and m.train else m]


def scaled(factor: float) -> Callable[[], Tamper]:
    """Hand in adapters of random values of this size."""
    return lambda: on(
        AdapterUp, lambda m: replace(m, values=tuple(factor * torch.randn_like(v) for v in m.values))
    )


FROZEN = {"train_front": False, "cuts": 2, "adapter_name_or_path": None}
UNBOUNDED = {
    "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1e-2, "weight_decay": 0.0,
    "robust_aggregation": "none",
}  # fmt: skip
WAYS: dict[str, Way] = {
    "a likelihood above 1": Way(
        lies(nll=lambda m: -1e9, row_nll=lambda m: torch.full_like(m.row_nll, -1e9 / len(m.row_nll))),
        "nll: .*no likelihood is above 1", ("client",),
    ),
    "more right tokens than tokens": Way(
        lies(correct=lambda m: m.tokens + 1.0), "correct: ", ("client",)
    ),
    "tokens of other rows": Way(
        lies(
            tokens=lambda m: 25 * len(m.row_tokens), row_tokens=lambda m: torch.full_like(m.row_tokens, 25.0)
        ),
        "row_tokens, paper_tokens|row_tokens: ", ("client",),
    ),
    "a kept sample beside one of another width": Way(
        after_made_up(7, lambda ids: ids), "not rows of 32 numbers", ("server",), job=FROZEN
    ),
    "a kept sample beside labels of two dimensions": Way(
        after_made_up(32, lambda ids: ids.reshape(-1, 1)), "no vector of int32", ("server",), job=FROZEN
    ),
    "held-out rows without end": Way(
        lambda: on(Ready, lambda m: replace(m, eval_rows=1 << 40)), "Ready: "
    ),
    "a state of another round": Way(lambda: on(Saved, lambda m: Saved(m.done + 1)), "where Saved"),
    "hours of computing": Way(lambda: on(Worked, lambda m: replace(m, front_seconds=1e5)), None),
    "a tail gradient of no size": Way(
        lambda: on(TailGradients, lambda m: replace(m, gradient=m.gradient[:1])),
        "gradient: shape", ("client",),
    ),
    # No reach: SGD without clipping may move as far as it likes, and nothing is robust.
    "adapters that do harm": Way(
        scaled(30.0), "the round's average with its adapter does harm", job=UNBOUNDED
    ),
    "gradient norms to freeze the trunk": Way(
        lambda: on(Activations, lambda m: replace(m, grad_norms=9e5 * torch.ones_like(m.grad_norms)),
                   lambda m: m.grad_norms is not None),
        None, trunks=("shared",),
    ),
    "labels without any loss": Way(
        lambda: on(Activations, lambda m: replace(m, labels=torch.full_like(m.labels, -100)),
                   lambda m: m.train),
        "the loss of step 1 in round 1 is not finite", ("server",),
    ),
    "adapters at the edge of what steps can make": Way(
        lambda: on(AdapterUp, lambda m: replace(m, values=tuple(v + 0.03 * v.sign() for v in m.values))), None
    ),
    # Blocks 1 and 2 are held by it and the shared trunk alone, and no reach bounds it.
    "adapters without measure in blocks of two holders": Way(
        scaled(30.0), None, ("server",), ("shared",),
        job=UNBOUNDED | {"robust_aggregation": "norm_clip", "cuts": [1, 1, 3]},
    ),
    "absurd adapters": Way(scaled(9e5), "beyond what"),
    "absurd adapters in blocks of two holders": Way(
        scaled(9e5), "beyond what", ("server",), job={"cuts": [1, 1, 3]}
    ),
    "adapters that do harm in blocks of two holders": Way(
        scaled(30.0), "the round's average with its adapter does harm", ("client",),
        job=UNBOUNDED | {"cuts": [1, 1, 2]},
    ),
}  # fmt: skip

"""Labels from the gradients that a client's tail returns, where labels stay at the client.

The gradient at the tail's input is Jᵀ g, with J the tail's Jacobian and g the gradient at the head's input,
which says how the head's row of the label differs from the expected one. The server knows the tail's public
weights and the hidden states that it sent: conjugate gradients on J Jᵀ give g back.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitft.errors import ModelError
from splitft.model.head import ChunkedHead, plain_linear
from splitft.model.window import install_window, run_blocks
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.attacks.view import ClientView

ITERATIONS = 120
_PER_BATCH = 4  # rows that are solved together


def labels_of(
    knowledge: ServerKnowledge,
    view: ClientView,
    tail: PublicTail,
    places: Sequence[int],
    iterations: int = ITERATIONS,
) -> dict[int, Tensor]:
    """Return {place: the likeliest label of each token's successor, (tokens,)} of samples at these places.

    Samples whose tail has sent no gradient are left out.
    """
    # What the client's tail was given, and what it returned, sample by sample.
    rows: list[tuple[Tensor, Tensor, int]] = []
    came = [torch.split(m.hidden.flatten(1), list(m.lengths)) for m in view.activations]
    for at_cut, down, back in zip(came, view.down, view.tail_gradients, strict=False):
        lengths = [len(one) for one in at_cut]
        hidden = knowledge.sent_down(torch.split(down.hidden, lengths), at_cut)
        gradients = torch.split(back.gradient.float().cpu(), lengths)
        rows += [(h, g, back.loss_tokens) for h, g in zip(hidden, gradients, strict=True)]
    wanted = [place for place in places if place < len(rows)]
    found: list[Tensor] = []
    for first in range(0, len(wanted), _PER_BATCH):
        found += tail.labels([rows[place] for place in wanted[first : first + _PER_BATCH]], iterations)
    return dict(zip(wanted, found, strict=True))


def gradient_norms(view: ClientView) -> list[Tensor]:
    """Return the norm of each token's gradient at the tail, (tokens,), of all samples that have one."""
    found: list[Tensor] = []
    for message, back in zip(view.activations, view.tail_gradients, strict=False):
        norms = back.gradient.float().cpu().flatten(1).norm(dim=1)
        found += torch.split(norms, list(message.lengths))
    return found


class PublicTail:
    """The model's last blocks and its final norm in float32, as far as the server knows them.

    Raises ModelError where the model's head is more than a matrix product.
    """

    def __init__(self, knowledge: ServerKnowledge, tail_blocks: int) -> None:
        start = knowledge.model.num_blocks - tail_blocks
        knowledge.model.bind(knowledge.adapter)
        self._model: Any = tail_copy(knowledge.model.model, start)
        head = plain_linear(self._model.get_output_embeddings())
        if head is None:
            raise ModelError("its head is more than a matrix product")
        self._start, self._blocks = start, knowledge.model.num_blocks
        self._head, self._table = ChunkedHead(self._model, "plain", 1), head.weight.detach()

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the head's input, (batch, seq, hidden), of hidden states where the tail begins."""
        return self._head.hidden(
            lambda: run_blocks(
                self._model, self._start, self._blocks, hidden=hidden, attention_mask=mask.long()
            )
        )

    def labels(self, rows: Sequence[tuple[Tensor, Tensor, int]], iterations: int) -> list[Tensor]:
        """Return the likeliest labels, (tokens,) each. rows: hidden states, gradients, tokens of the loss."""
        lengths = [len(hidden) for hidden, _, _ in rows]
        hidden, gradient = (
            torch.stack([functional.pad(one, (0, 0, 0, max(lengths) - len(one))) for one in parts])
            for parts in ([row[0] for row in rows], [row[1] for row in rows])
        )
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        at_head, slope = self._solve(hidden, gradient, mask, iterations)
        found = []
        for (_, _, tokens), length, states, own in zip(rows, lengths, at_head, slope, strict=True):
            expected = (states[:length] @ self._table.T).softmax(-1) @ self._table
            target = expected - tokens * own[:length]
            # The nearest row of the head: |w|² - 2 w·t is least.
            far = self._table.pow(2).sum(-1)[None] - 2 * target @ self._table.T
            found.append(far.argmin(-1))
        return found

    def _solve(
        self, hidden: Tensor, gradient: Tensor, mask: Tensor, iterations: int
    ) -> tuple[Tensor, Tensor]:
        """Return the head's input and the x of each row that solves Jᵀ x = gradient, by least squares."""
        hidden = hidden.clone().requires_grad_()
        at_head = self(hidden, mask)
        valid = mask[..., None].float()
        probe = torch.zeros_like(at_head, requires_grad=True)
        (linear,) = torch.autograd.grad(at_head, hidden, probe * valid, create_graph=True)  # Jᵀ probe

        def transposed(x: Tensor) -> Tensor:
            (out,) = torch.autograd.grad(at_head, hidden, x * valid, retain_graph=True)
            return out.detach()

        def forward(y: Tensor) -> Tensor:
            (out,) = torch.autograd.grad(linear, probe, y, retain_graph=True)
            return out.detach()

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).sum((1, 2), keepdim=True)

        solution = torch.zeros_like(at_head).detach()
        residual = forward(gradient)
        direction, size = residual.clone(), dot(residual, residual)
        for _ in range(iterations):
            image = forward(transposed(direction))
            step = size / dot(direction, image).clamp_min(1e-30)
            solution, residual = solution + step * direction, residual - step * image
            before, size = size, dot(residual, residual)
            direction = residual + size / before.clamp_min(1e-30) * direction
        return at_head.detach(), solution


def tail_copy(model: Any, start: int) -> Any:
    """Return a float32 copy of a model whose blocks before `start` are empty, for gradients of gradients."""
    window = install_window(model)
    front = list(window._modules.values())[:start]
    made: Any = copy.deepcopy(model, {id(block): nn.Identity() for block in front}).float().cpu().eval()
    made.set_attn_implementation("eager")  # fused kernels have no second derivative
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made

"""Promises of the change of basis: the same product, its best approximation first, nothing frozen by it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitft.lora.basis import canonical, canonical_block, truncation_error
from splitft.lora.blocks import resize

SIZES = st.integers(1, 9)


@st.composite
def pairs(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) of any sizes and scales, of full or of deficient rank."""
    rank, inputs, outputs = draw(SIZES), draw(SIZES), draw(SIZES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    a = torch.randn(rank, inputs, generator=generator, dtype=dtype) * 10 ** draw(st.floats(-4, 4))
    b = torch.randn(outputs, rank, generator=generator, dtype=dtype) * 10 ** draw(st.floats(-4, 4))
    if draw(st.booleans()):
        a[-1] = a[0]
    if draw(st.booleans()):
        b[:, -1] = 0
    return a, b


def close(got: Tensor, wanted: Tensor, relative: float = 1e-10) -> bool:
    return bool((got - wanted).norm() <= relative * wanted.norm() + 1e-300)


@settings(deadline=None)
@given(pair=pairs())
def test_the_product_stays(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    new_a, new_b = canonical(a, b)
    assert (new_a.shape, new_b.shape, new_a.dtype) == (a.shape, b.shape, a.dtype)
    assert close(new_b @ new_a, b @ a)


@settings(deadline=None)
@given(pair=pairs())
def test_leading_components_are_the_best_approximation(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    new_a, new_b = canonical(a, b)
    singular = torch.linalg.svdvals(b @ a)
    for k in range(1, len(a) + 1):
        optimum = singular[k:].norm()
        measured = (b @ a - new_b[:, :k] @ new_a[:k]).norm()
        assert measured <= optimum * (1 + 1e-9) + 1e-10 * singular[0]


@settings(deadline=None)
@given(pair=pairs())
def test_rows_are_orthogonal_and_none_vanishes(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    new_a, _ = canonical(a, b)
    rows = min(a.shape)
    length = a.norm() / len(a) ** 0.5
    assert torch.allclose(new_a.norm(dim=1), length.expand(len(a)), rtol=1e-9)
    gram = new_a[:rows] @ new_a[:rows].T / length**2
    assert torch.allclose(gram, torch.eye(rows, dtype=gram.dtype), atol=1e-9)


def test_a_component_without_weight_still_gets_a_gradient() -> None:
    """A new adapter has B = 0 and random A; after the change of basis all of B can be trained, as before."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 6, generator=generator)
    for b in (torch.zeros(5, 4), torch.randn(5, 1, generator=generator) @ torch.randn(1, 4)):
        new_a, new_b = canonical(a, b)
        weight = new_b.clone().requires_grad_()
        inputs, wanted = torch.randn(20, 6, generator=generator), torch.randn(20, 5, generator=generator)
        ((inputs @ new_a.T @ weight.T - wanted) ** 2).mean().backward()
        assert weight.grad is not None
        assert (weight.grad.norm(dim=0) > 1e-3).all()


def test_zero_adapters_stay_zero() -> None:
    a, b = canonical(torch.zeros(2, 3), torch.ones(4, 2))
    assert torch.equal(a, torch.zeros(2, 3))
    assert torch.equal(b, torch.ones(4, 2))


@pytest.mark.parametrize(
    ("rank", "inputs", "outputs"), [(8, 3, 5), (8, 5, 3), (8, 12, 3), (8, 3, 12), (5, 1, 1)]
)
def test_a_rank_above_the_layers_sizes_keeps_its_shape(rank: int, inputs: int, outputs: int) -> None:
    a, b = torch.randn(rank, inputs), torch.randn(outputs, rank)
    new_a, new_b = canonical(a, b)
    assert (new_a.shape, new_b.shape) == (a.shape, b.shape)
    assert torch.allclose(new_b @ new_a, b @ a, atol=1e-5)


def block_of(*pairs_: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {
        f"mlp.layer{i}.lora_{side}.weight": tensor
        for i, pair in enumerate(pairs_)
        for side, tensor in zip("AB", pair, strict=True)
    }


@settings(deadline=None)
@given(first=pairs(), second=pairs(), rank=SIZES)
def test_truncation_error_is_the_measured_one(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], rank: int
) -> None:
    blocks = canonical_block(block_of(first, second))
    cut = resize(blocks, rank)
    lost = whole = 0.0
    for i in range(2):
        a, b = f"mlp.layer{i}.lora_A.weight", f"mlp.layer{i}.lora_B.weight"
        product = blocks[b] @ blocks[a]
        lost += float((product - cut[b] @ cut[a]).norm() ** 2)
        whole += float(product.norm() ** 2)
    expected = (lost / whole) ** 0.5 if whole else 0.0
    assert truncation_error(blocks, rank) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_a_block_keeps_its_names_and_their_order() -> None:
    block = block_of((torch.randn(3, 4), torch.randn(5, 3)), (torch.randn(3, 7), torch.randn(2, 3)))
    changed = canonical_block(block)
    assert list(changed) == list(block)
    for i in range(2):
        a, b = f"mlp.layer{i}.lora_A.weight", f"mlp.layer{i}.lora_B.weight"
        assert torch.allclose(changed[b] @ changed[a], block[b] @ block[a], atol=1e-5)
        assert changed[a].dtype == torch.float32


def test_the_change_of_basis_is_stable_and_repeatable() -> None:
    a, b = torch.randn(4, 9), torch.randn(6, 4)
    once = canonical(a, b)
    again = canonical(a, b)
    assert all(torch.equal(x, y) for x, y in zip(once, again, strict=True))
    twice = canonical(*once)
    for k in range(1, 5):
        assert close(twice[1][:, :k] @ twice[0][:k], once[1][:, :k] @ once[0][:k], 1e-4)

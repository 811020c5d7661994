"""The accountant equals values worked out by hand, closed forms, and two libraries."""

from __future__ import annotations

import math

import pytest

from splitft.lora.dp.accountant import (
    ORDERS,
    epsilon_of,
    noise_multiplier_for,
    rdp_of_step,
    renyi_divergence,
)


def by_binomials(q: float, sigma: float, order: int) -> float:
    """Mironov, Talwar and Zhang (2019), §3.3: the closed form of whole orders."""
    terms = [
        math.log(math.comb(order, k))
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    highest = max(terms)
    return (highest + math.log(sum(math.exp(term - highest) for term in terms))) / (order - 1)


def test_values_worked_out_by_hand() -> None:
    # q = .01, σ = 1, α = 2: log(1 + x), x = q² (e - 1) = 1.7182818e-4; x - x² / 2 + x³ / 3 = 1.7181342e-4.
    assert renyi_divergence(0.01, 1.0, 2.0) == pytest.approx(1.7181342e-4, rel=1e-7)
    # Every row in every step, σ = 2, α = 3: α / 2σ² = 3 / 8.
    assert renyi_divergence(1.0, 2.0, 3.0) == 0.375
    # 10 steps of it at α = 3 and δ = 1e-5: 3.75 + log(2/3) - (log 1e-5 + log 3) / 2 = 8.55169.
    total = 3.75 + math.log(2 / 3) - (math.log(1e-5) + math.log(3)) / 2
    assert total == pytest.approx(8.55169, abs=1e-5)
    assert epsilon_of(1.0, 2.0, 10, 1e-5) <= total


@pytest.mark.parametrize("order", [2, 3, 7, 32, 256])
@pytest.mark.parametrize(("q", "sigma"), [(0.001, 0.6), (0.02, 0.5), (0.3, 1.3), (0.9, 4.0), (0.05, 20.0)])
def test_the_integral_is_the_closed_form_of_whole_orders(q: float, sigma: float, order: int) -> None:
    assert renyi_divergence(q, sigma, float(order)) == pytest.approx(by_binomials(q, sigma, order), rel=1e-6)


# (q, σ, steps, δ): ε of the RDP accountants of dp-accounting 0.6.0 and of Opacus 1.6.0, and of the former's
# PLD accountant, which is close to the truth: benchmarks/accountants.py prints them.
LIBRARIES: dict[tuple[float, float, int, float], tuple[float, float, float]] = {
    (0.01, 1.0, 1000, 1e-5): (2.101367, 2.101365, 1.828244),
    (0.016, 0.61, 300, 5e-5): (7.015621, 7.005315, 5.796313),
    (0.05, 0.8, 200, 1e-4): (7.510011, 7.490260, 6.472586),
    (0.3, 2.0, 100, 1e-4): (7.655482, 7.632593, 6.911302),
    (1.0, 5.0, 30, 1e-5): (5.252904, 5.252401, 4.866083),
    (0.0003, 0.41, 3000, 1e-6): (7.509605, 7.509114, 6.073281),
}


@pytest.mark.parametrize("case", LIBRARIES)
def test_the_libraries_agree(case: tuple[float, float, int, float]) -> None:
    google, opacus, loss_distribution = LIBRARIES[case]
    found = epsilon_of(*case)
    assert found == pytest.approx(min(google, opacus), rel=0.003)
    assert found >= loss_distribution * 0.999  # never less than the truth


def test_no_steps_cost_nothing_and_more_cost_more() -> None:
    assert epsilon_of(0.1, 1.0, 0, 1e-5) == 0
    each = [epsilon_of(0.1, 1.0, steps, 1e-5) for steps in (1, 10, 100)]
    assert each == sorted(each) and each[0] > 0
    assert epsilon_of(0.1, 2.0, 100, 1e-5) < epsilon_of(0.1, 1.0, 100, 1e-5) < epsilon_of(0.2, 1.0, 100, 1e-5)
    assert len(rdp_of_step(0.1, 1.0)) == len(ORDERS)


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0, 50.0])
def test_the_noise_is_the_least_that_keeps_the_target(epsilon: float) -> None:
    noise = noise_multiplier_for(epsilon, 1e-5, 0.05, 200)
    assert epsilon_of(0.05, noise, 200, 1e-5) <= epsilon < epsilon_of(0.05, round(noise - 1e-4, 4), 200, 1e-5)
    assert noise == round(noise, 4)


def test_a_target_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match="no noise"):
        noise_multiplier_for(1e-9, 1e-5, 1.0, 10**6)

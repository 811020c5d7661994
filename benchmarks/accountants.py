"""The accountant beside two libraries: the ε of settings that tests/unit/lora/test_accountant.py holds.

Needs dp-accounting and opacus, which SplitFT does not: install them into an environment of their own and run
there, with SplitFT's source on the path:

    PYTHONPATH=src python benchmarks/accountants.py
"""

from __future__ import annotations

from splitft.lora.dp.accountant import epsilon_of

# (sample rate, noise multiplier, steps, δ)
CASES = (
    (0.01, 1.0, 1000, 1e-5),
    (0.016, 0.61, 300, 5e-5),
    (0.05, 0.8, 200, 1e-4),
    (0.3, 2.0, 100, 1e-4),
    (1.0, 5.0, 30, 1e-5),
    (0.0003, 0.41, 3000, 1e-6),
)


def by_google(q: float, sigma: float, steps: int, delta: float) -> tuple[float, float]:
    """Return the ε of dp-accounting's RDP accountant, and of its privacy loss distributions."""
    import dp_accounting
    from dp_accounting import pld, rdp

    step = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
    found = []
    for accountant in (rdp.RdpAccountant(), pld.PLDAccountant()):
        accountant.compose(step, steps)
        found.append(float(accountant.get_epsilon(delta)))
    return found[0], found[1]


def by_opacus(q: float, sigma: float, steps: int, delta: float) -> float:
    """Return the ε of Opacus's RDP accountant."""
    from opacus.accountants.analysis import rdp

    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
    total = rdp.compute_rdp(q=q, noise_multiplier=sigma, steps=steps, orders=orders)
    return float(rdp.get_privacy_spent(orders=orders, rdp=total, delta=delta)[0])


def main() -> None:
    """Print the table."""
    print("sample rate, noise, steps, delta: SplitFT | dp-accounting RDP | Opacus RDP | dp-accounting PLD")
    for case in CASES:
        google, tight = by_google(*case)
        print(f"{case}: {epsilon_of(*case):.6f} | {google:.6f} | {by_opacus(*case):.6f} | {tight:.6f}")


if __name__ == "__main__":
    main()

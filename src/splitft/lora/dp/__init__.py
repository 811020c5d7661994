"""Example-level differential privacy as pure functions: accountant, plan, noise, clipping, ledger."""

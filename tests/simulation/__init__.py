"""Deterministic simulation of the protocol: one seed is one schedule. See docs/design/simulation.md."""

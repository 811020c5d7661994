"""Partitions: pure functions from lengths, labels or sources to row indices per client."""

"""What the benchmarks share: models and rows, the parties of a step, memory, records and tables."""

"""Everything around the rounds, one file for each way to start: runner, serve, join, aggregator."""

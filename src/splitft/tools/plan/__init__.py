"""Plans: what a job would take in memory, bytes and time, without training it."""

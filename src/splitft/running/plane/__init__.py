"""What others see of a party of a network while it runs: its health, and its metrics."""

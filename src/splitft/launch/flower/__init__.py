"""The Flower launcher: Flower launches and authenticates, the network engine carries the steps."""

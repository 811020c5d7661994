"""The Flower engine: Flower launches and authenticates, the network engine carries the steps."""

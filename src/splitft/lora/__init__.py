"""LoRA adapters as plain tensors: blocks, ranks, means, changes of basis, moments and the optimizer."""

"""Small tools that every package may use: seeds, states and checkpoints, files, text, failpoints."""

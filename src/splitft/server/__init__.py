"""The server: trunks, one training step, the global adapter and the average of a round."""

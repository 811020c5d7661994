"""The client: its batches, its front and tail, and the steps that are in flight."""

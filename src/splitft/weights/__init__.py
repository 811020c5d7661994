"""Base models: from a hub, a folder or the built-in one; whole, in part, or shrunk."""

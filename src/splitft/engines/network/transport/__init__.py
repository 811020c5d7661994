"""Bytes between machines: frames, delivery, links, TLS, admission and certificates."""

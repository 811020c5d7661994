"""Redaction at the source: spans of texts and rare tokens are replaced before anything is computed."""

"""Samples that both ends of a channel remember, so that less of them is sent again."""

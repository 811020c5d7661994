"""Attacks of a server: they get the messages, the job, the base weights and the global adapter, no client."""

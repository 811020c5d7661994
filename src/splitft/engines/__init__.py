"""Carriers of the same messages: in process (`local`)."""

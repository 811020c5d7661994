"""Methods to compare splits with, on the same data, seeds, evaluation and counters.

fed_lora: whole models on the clients, with the ordinary server. local_only and centralized: no exchange.
"""

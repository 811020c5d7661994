"""Methods to compare splits with, on the same data, seeds, evaluation and counters.

fed_lora: whole models on the clients, with the ordinary server. local_only and centralized: no exchange.
"""

from __future__ import annotations

from splitft.running.baselines.no_exchange import POOLED, Books, NoExchange
from splitft.running.baselines.whole import WholeClient, WholeModels

__all__ = ["POOLED", "Books", "NoExchange", "WholeClient", "WholeModels"]

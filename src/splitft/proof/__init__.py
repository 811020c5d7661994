"""Prove that a split model computes what the whole one does, or refuse it.

Reading order: harness (rows, differences, tolerances); split (question and report), trial, compare, guards
(against a proof that proves nothing); head, packed, batched (one more question each); every_type (all
architectures, each in a process of its own).
"""

from __future__ import annotations

from splitft.proof.split import SplitReport, check_split, map_cuts, valid_cuts

__all__ = ["SplitReport", "check_split", "map_cuts", "valid_cuts"]

"""Prove that a split model computes what the whole one does, or refuse it.

Reading order: prove (what is asked and answered), trial, proof (the comparison), guards (against a proof that
proves nothing); every, worker (all architectures, each safe from the others); table (what a person sees).
"""

from __future__ import annotations

from splitft.proof.split import SplitReport, check_split, map_cuts, valid_cuts

__all__ = ["SplitReport", "check_split", "map_cuts", "valid_cuts"]

"""What SplitFT is compared with, on the same data, seeds, evaluation and counters.

whole: a client that trains the whole model. fed_lora uses it with the ordinary server: a cut of all blocks.
local_only: no exchange at all. centralized: all data in one place.
"""

from __future__ import annotations

from splitft.running.baselines.centralized import CentralCohort
from splitft.running.baselines.local_only import LocalOnlyCohort, SilentServer
from splitft.running.baselines.whole import WholeClient, WholeModels

__all__ = ["CentralCohort", "LocalOnlyCohort", "SilentServer", "WholeClient", "WholeModels"]

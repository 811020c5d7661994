"""Contract checks for pieces of your own: call them in your tests, before a run does.

Each takes the piece as it is registered, and raises AssertionError that says what was expected and what came.
"""

from splitft.testing.algorithms import check_objective, check_optimizer, check_server_optimizer
from splitft.testing.averages import check_aggregation, check_robust_rule
from splitft.testing.codecs import check_codec
from splitft.testing.cuts import check_cut_policy
from splitft.testing.jobs import check_callback, check_device, check_method
from splitft.testing.metrics import check_metric
from splitft.testing.partitions import check_partition
from splitft.testing.redactors import check_redactor

__all__ = [
    "check_aggregation",
    "check_callback",
    "check_codec",
    "check_cut_policy",
    "check_device",
    "check_method",
    "check_metric",
    "check_objective",
    "check_optimizer",
    "check_partition",
    "check_redactor",
    "check_robust_rule",
    "check_server_optimizer",
]

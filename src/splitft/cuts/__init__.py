"""Cut policies: pure functions from what is known of the clients to how many blocks each of them holds.

observe: what goes in and comes out. explicit, resource, accuracy, makespan: the policies. registry: policies
by name, a user's own among them. decide: bounds, steps, reasons, the record. predict, search: seconds.
"""

from __future__ import annotations

from splitft.cuts.decide import decide, replay
from splitft.cuts.observe import ClientState, Decision, Observation, Proposal
from splitft.cuts.predict import predict_step_seconds
from splitft.cuts.registry import register_cut_policy

__all__ = [
    "ClientState",
    "Decision",
    "Observation",
    "Proposal",
    "decide",
    "predict_step_seconds",
    "register_cut_policy",
    "replay",
]

"""fixed and schedule: the cuts are what the job says."""

from __future__ import annotations

from splitft.cuts.observe import Observation, Proposal
from splitft.job.sections import CutPolicyConfig, per_client


def fixed(observation: Observation, config: CutPolicyConfig) -> Proposal:
    """Same Split, or a list of cuts: every client keeps the cut that it has."""
    return Proposal({client.name: float(client.cut) for client in observation.clients}, at_once=True)


def schedule(observation: Observation, config: CutPolicyConfig) -> Proposal:
    """The last entry of `config.schedule` whose round has come; before the first, the job's cuts.

    Raises JobError where a list does not have one entry per client.
    """
    planned = config.schedule or {}
    started = [int(round_) for round_ in planned if int(round_) <= observation.round]
    if not started:
        return fixed(observation, config)
    names = [client.name for client in observation.clients]
    cuts = per_client(f"cut_policy.schedule (round {max(started)})", planned[str(max(started))], names)
    targets = {name: float(cut) for name, cut in cuts.items()}
    reason = f"the schedule from round {max(started)} on"
    return Proposal(targets, dict.fromkeys(targets, reason), at_once=True)

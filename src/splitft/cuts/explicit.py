"""fixed and schedule: the cuts are what the job says."""

from __future__ import annotations

from splitft.cuts.observe import Observation, Proposal
from splitft.errors import JobError
from splitft.job.sections import CutPolicyConfig


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
    entry = planned[str(max(started))]
    cuts = entry if isinstance(entry, list) else [entry] * len(observation.clients)
    if len(cuts) != len(observation.clients):
        names = ", ".join(client.name for client in observation.clients)
        raise JobError(
            f"cut_policy.schedule has {len(cuts)} cuts from round {max(started)} on, but there are "
            f"{len(observation.clients)} clients ({names})"
        )
    targets = {client.name: float(cut) for client, cut in zip(observation.clients, cuts, strict=True)}
    reason = f"the schedule from round {max(started)} on"
    return Proposal(targets, dict.fromkeys(targets, reason), at_once=True)

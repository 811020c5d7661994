"""From a policy's targets to cuts: checked, bounded, not too fast, each with a reason."""

from __future__ import annotations

import math
from dataclasses import replace

from splitft.cuts.answer import checked, json_state
from splitft.cuts.bounds import cut_bounds
from splitft.cuts.observe import CutPolicy, Decision, Observation, Proposal
from splitft.cuts.registry import CUT_POLICIES
from splitft.errors import JobError
from splitft.job.sections import CutPolicyConfig


def decide(name: str, config: CutPolicyConfig, observation: Observation) -> Decision:
    """Ask the policy `name` for targets and turn them into cuts.

    A target is rounded to whole blocks (halves up). A cut stays while its target is less than 0.5 +
    hysteresis away, moves by at most `max_step` otherwise, and always lies between `min_cut` and what the
    client can hold; that bound alone may move it further than `max_step`. Neither hysteresis nor `max_step`
    holds in round 1, in the first decision of a run, or where the policy gave explicit cuts (`at_once`).

    Raises JobError for an unknown policy, for one that fails or returns nonsense, and where a client cannot
    hold `min_cut` blocks. Source: the paper, completed by us (hysteresis, `max_step`).
    """
    policy = CUT_POLICIES.find(name)
    bounds = cut_bounds(observation, config)
    observation = replace(observation, state=json_state(name, observation.state))
    proposal = _ask(name, policy, config, observation)
    cuts, reasons = {}, {}
    for client in observation.clients:
        target, (low, high) = proposal.targets[client.name], bounds[client.name]
        free = proposal.at_once or observation.first or observation.round <= 1
        cut, how = _settle(target, client.cut, low, high, config, free)
        why = proposal.reasons.get(client.name)
        cuts[client.name], reasons[client.name] = cut, f"{why}; {how}" if why else how
    return Decision(
        round=observation.round,
        policy=name,
        settings=config.model_dump(),
        observation=observation,
        targets=dict(proposal.targets),
        cuts=cuts,
        reasons=reasons,
        state=dict(proposal.state),
    )


def replay(decision: Decision) -> Decision:
    """Decide again on what was seen then; an equal decision shows that the record is complete.

    Raises JobError like `decide`; a policy of one's own must be registered first.
    """
    return decide(decision.policy, CutPolicyConfig(**decision.settings), decision.observation)


def _ask(name: str, policy: CutPolicy, config: CutPolicyConfig, observation: Observation) -> Proposal:
    # The policy gets a copy of its state: what it may write into it must not change the record.
    shown = replace(observation, state=json_state(name, observation.state))
    try:
        answer = policy(shown, config)
    except JobError:
        raise
    except Exception as error:
        raise JobError(f"cut policy {name} failed: {type(error).__name__}: {error}") from error
    return checked(name, answer, observation)


def _settle(
    target: float, cut: int, low: int, high: int, config: CutPolicyConfig, free: bool
) -> tuple[int, str]:
    """The new cut of one client, and in words how it follows from the target."""
    said = [f"target {target:.10g}" if target == int(target) else f"target {target:.2f}"]
    near = not free and abs(target - cut) < 0.5 + config.hysteresis
    wish = float(cut) if near else target
    if near and math.floor(target + 0.5) != cut:
        said.append(f"less than {0.5 + config.hysteresis:g} away")
    new = math.floor(min(max(wish, low), high) + 0.5)
    if not low <= wish <= high:
        said.append(f"at least {low}" if wish < low else f"at most {high}")
    if not free:
        lowest, highest = (min(max(cut + step, low), high) for step in (-config.max_step, config.max_step))
        if not lowest <= new <= highest:
            new = lowest if new < lowest else highest
            bound = f"at most {high}" if new < cut else f"at least {low}"
            said.append(f"moved by at most {config.max_step}" if abs(new - cut) <= config.max_step else bound)
    return new, ", ".join(said) + (f": stays at {cut}" if new == cut else f": {cut} -> {new}")

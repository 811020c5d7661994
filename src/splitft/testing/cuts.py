"""The contract of a cut policy."""

from __future__ import annotations

from splitft.cuts.decide import decide, replay
from splitft.cuts.observe import ClientState, CutPolicy, Decision, Observation
from splitft.cuts.registry import CUT_POLICIES
from splitft.job.sections import CutPolicyConfig
from splitft.testing.contract import contract, require

_NAME = "policy under test"


def check_cut_policy(function: CutPolicy, config: CutPolicyConfig | None = None, rounds: int = 5) -> None:
    """Check a policy as it is registered: a finite target for each client, the same when asked again.

    Clients with and without known seconds and accuracies are shown over several rounds, each with the cuts
    and the state of the last one; every decision is replayed from its record.

    config: keys of `cut_policy` that the policy reads.
    """
    CUT_POLICIES.register(_NAME, function)
    config = config or CutPolicyConfig(method=_NAME)
    for known in (True, False):
        clients = tuple(
            ClientState(
                name, 2, 6, 0.2 + 0.1 * number if known else None, *([0.1 * speed] * 6 if known else [])
            )
            for number, (name, speed) in enumerate({"slow": 8.0, "middle": 3.0, "fast": 1.0}.items())
        )
        state: dict[str, object] = {}
        for round_ in range(1, rounds + 1):
            with contract():
                seen = Observation(round_, 8, clients, state=state)
                decision = decide(_NAME, config, seen)
                again = replay(Decision.from_json(decision.to_json()))
            require(again == decision, "the policy decided otherwise when asked again: it must be pure")
            state = decision.state
            clients = tuple(
                ClientState(**{**vars(client), "cut": decision.cuts[client.name]}) for client in clients
            )

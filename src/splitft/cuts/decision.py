"""A decision as it is recorded: what was seen, what was decided and why."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from splitft.cuts.observe import ClientState, Observation


@dataclass(frozen=True)
class Decision:
    """One decision of a cut policy; one line of decisions.jsonl.

    round: The round that it is for.
    policy: The policy's name.
    settings: The job's cut_policy.
    observation: All that the policy saw.
    targets: {client: blocks} as the policy wished, before rounding and bounds.
    cuts: {client: blocks} as decided.
    reasons: {client: why}, in words.
    state: What the policy sees again next time.
    """

    round: int
    policy: str
    settings: dict[str, Any]
    observation: Observation
    targets: dict[str, float]
    cuts: dict[str, int]
    reasons: dict[str, str]
    state: dict[str, Any]

    def to_json(self) -> str:
        """One line of JSON; `from_json` gives an equal decision, each float to the last bit."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Decision:
        """Read a line that `to_json` wrote."""
        values = json.loads(line)
        seen = values["observation"]
        clients = tuple(ClientState(**client) for client in seen["clients"])
        return cls(**{**values, "observation": Observation(**{**seen, "clients": clients})})

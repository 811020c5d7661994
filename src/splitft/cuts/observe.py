"""Observation and proposal: the input and the output of a cut policy; and the record of a decision."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from splitft.job.sections import CutPolicyConfig


@dataclass(frozen=True)
class ClientState:
    """One client before a round.

    All seconds are those of one optimizer step of this client, from a device profile or measured; None:
    unknown.

    name: The client.
    cut: Its blocks now; before round 1 the job's `cuts`.
    max_cut: The most blocks that it can take: the job's bound, the model, its memory.
    accuracy: Next-token accuracy on its own held-out rows, at the last evaluation; None without such rows.
    block_seconds: Forward and backward of one block on the client.
    fixed_seconds: The client's computing at every cut (tail, head).
    adapter_seconds: One block's adapter on the client's link, both ways: a round's, over its local steps.
    transfer_seconds: Activations and gradients both ways, with latency.
    server_block_seconds: Forward and backward of one block on the server, for this client's rows.
    server_fixed_seconds: Head and loss on the server, for this client's rows.
    """

    name: str
    cut: int
    max_cut: int
    accuracy: float | None
    block_seconds: float | None = None
    fixed_seconds: float | None = None
    transfer_seconds: float | None = None
    adapter_seconds: float | None = None
    server_block_seconds: float | None = None
    server_fixed_seconds: float | None = None


@dataclass(frozen=True)
class Observation:
    """All that a policy may go by.

    round: The coming round; 1 is the first.
    num_blocks: Blocks that a cut divides: the model's less the tail.
    clients: In the order of the job.
    order, server_adapter: As in the job; they decide what a step waits for.
    state: The policy's own, from its last Proposal; {} at first.
    self_reported: Accuracies are what clients state, not what the server computed.
    first: No decision came before; over a network the first one waits for measured seconds.
    """

    round: int
    num_blocks: int
    clients: tuple[ClientState, ...]
    order: Literal["parallel", "turns"] = "parallel"
    server_adapter: Literal["per_client", "shared"] = "per_client"
    state: Mapping[str, Any] = field(default_factory=dict)
    self_reported: bool = False
    first: bool = False


@dataclass(frozen=True)
class Proposal:
    """The answer of a policy.

    targets: {client: blocks}, neither rounded nor bounded yet.
    reasons: {client: why}, in words; may be empty.
    state: The policy's memory for its next decision: JSON values.
    at_once: The targets are explicit wishes: `max_step` and hysteresis do not hold them back.
    """

    targets: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    at_once: bool = False


CutPolicy = Callable[[Observation, CutPolicyConfig], Proposal | Mapping[str, float]]


@dataclass(frozen=True)
class Decision:
    """One decision of a cut policy; one line of decisions.jsonl."""

    round: int  # that it is for
    policy: str
    settings: dict[str, Any]  # the job's cut_policy
    observation: Observation  # all that the policy saw
    targets: dict[str, float]  # {client: blocks} as the policy wished, before rounding and bounds
    cuts: dict[str, int]  # {client: blocks} as decided
    reasons: dict[str, str]  # {client: why}, in words
    state: dict[str, Any]  # the policy's memory for its next decision

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

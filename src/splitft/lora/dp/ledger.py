"""The ledger of one client: the key of its noise, and the rounds that it has trained with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from splitft.common.state import State
from splitft.errors import PolicyError
from splitft.lora.dp.noise import is_key, new_key
from splitft.lora.dp.plan import PrivacyPlan


class PrivacyLedger:
    """Counts each round once, by the digest of all that its steps follow from.

    A round from the same state draws the same rows and the same noise, and tells nothing new; from another
    state it is one more. Steps beyond the plan are refused.

    Args:
        client: Name in messages.
        key: Of the noise; empty: a new one.
        trained: Digests of rounds so far.
        keep: Writes the ledger down before a new round's first step; None: it is part of the client's state.
    """

    def __init__(
        self,
        client: str,
        key: str = "",
        trained: tuple[str, ...] = (),
        keep: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.client = client
        self.key = key or new_key()
        self._trained = list(trained)
        self._keep = keep

    @property
    def rounds(self) -> int:
        """Rounds so far."""
        return len(self._trained)

    def open(self, digest: str, plan: PrivacyPlan, steps: int) -> None:
        """Begin a round. digest: of all that its steps follow from; steps: of a round.

        Raises PolicyError where the plan has no steps left.
        """
        if digest in self._trained:
            return
        spent = (self.rounds + 1) * steps
        if spent > plan.steps:
            raise PolicyError(
                f"the steps of {self.client} with differential privacy are used up: {plan.steps} steps at "
                f"noise multiplier {plan.noise_multiplier:g} make epsilon {plan.epsilon(plan.steps):.3g} at "
                f"delta {plan.delta:g}, and {spent} would make more"
            )
        self._trained.append(digest)
        if self._keep is not None:
            self._keep(self._values())

    def state(self) -> State:
        """Return key and rounds as a checkpoint holds them; empty where they are written down elsewhere."""
        return {} if self._keep is not None else self._values()

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`. What is written down elsewhere stays as it is."""
        if self._keep is None and is_key(state.get("key")):
            self.key, self._trained = state["key"], list(state["trained"])

    def _values(self) -> dict[str, Any]:
        return {"key": self.key, "trained": list(self._trained)}

"""The plan of one client's differential privacy: how rows are drawn, the noise, and the ε of its steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from splitft.errors import JobError
from splitft.job.settings import TrainingSettings
from splitft.lora.dp.accountant import epsilon_of, noise_multiplier_for

DELTA_PARTS = 10  # δ is one of so many parts of 1 / rows, where the job states none


@dataclass(frozen=True)
class PrivacyPlan:
    """What decides the ε of one client.

    Attributes:
        rows: Training rows of the client.
        step_rows: Rows that a step draws on average.
        noise_multiplier: Standard deviation of the noise, in units of max_grad_norm.
        steps: Of the whole run, where the client is in every round.
    """

    rows: int
    step_rows: int
    delta: float
    noise_multiplier: float
    steps: int

    @property
    def sample_rate(self) -> float:
        """The probability with which each row is in a step's batch."""
        return min(1.0, self.step_rows / self.rows)

    def epsilon(self, steps: int) -> float:
        """Return the ε of so many steps."""
        return epsilon_of(self.sample_rate, self.noise_multiplier, steps, self.delta)


def plan_of(settings: TrainingSettings, rows: int) -> PrivacyPlan:
    """Return the plan of a client with so many training rows.

    Raises JobError where the job asks for no differential privacy, its δ is 1 / rows or more, or no noise
    gives its ε.
    """
    dp = settings.dp
    step_rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    steps = settings.rounds * settings.local_steps
    delta = 1 / (DELTA_PARTS * rows) if dp.delta is None else dp.delta
    if delta * rows >= 1:
        raise JobError(
            f"dp.delta: {delta:g} is not less than 1 / {rows} rows of a client, and would allow to publish a "
            "row as it is: lower it, or leave it out"
        )
    noise = dp.noise_multiplier
    if noise is None:
        if dp.epsilon is None:
            raise JobError("dp.epsilon: the job asks for no differential privacy")
        try:
            noise = noise_multiplier_for(dp.epsilon, delta, min(1.0, step_rows / rows), steps)
        except ValueError as error:
            raise JobError(f"dp.epsilon: {error}; raise it") from None
    return PrivacyPlan(rows, step_rows, delta, noise, steps)


class Spent:
    """The steps of every client so far, and their ε, as the rounds count them.

    steps: {client: steps} before the first round that is added.
    """

    def __init__(self, settings: TrainingSettings, steps: Mapping[str, int]) -> None:
        self._settings = settings
        self._steps = dict(steps)

    def add(self, members: Collection[str]) -> None:
        """Count the local steps of a round's members."""
        for name in members:
            self._steps[name] = self._steps.get(name, 0) + self._settings.local_steps

    def so_far(self, rows: Mapping[str, int]) -> dict[str, tuple[int, float]]:
        """Return {client: (steps, ε)}. rows: training rows of every client; those without are left out."""
        found = {}
        for name, count in rows.items():
            steps = self._steps.get(name, 0)
            if count:
                found[name] = steps, plan_of(self._settings, count).epsilon(steps)
        return found

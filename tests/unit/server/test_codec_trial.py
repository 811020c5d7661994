"""codec: auto: the choice follows the measurements and the budget, and says why."""

from __future__ import annotations

import pytest

from splitft.job.sections import CodecBudgetConfig
from splitft.server.codec_trial import Choice, CodecTrial, choose

UP = {
    "bf16": (8e6, 0.0),
    "int8": (4e6, 0.0002),
    "int4": (2e6, 0.004),
    "int3": (1.6e6, 0.012),
    "int2": (1e6, 0.04),
}
DOWN = {
    "bf16": (8e6, 0.0),
    "int8": (4e6, 0.0),
    "int4": (2e6, 0.012),
    "int3": (1.5e6, 0.037),
    "int2": (1e6, 0.118),
}


def trials(loss_change: float = 0.001) -> list[CodecTrial]:
    up = [CodecTrial("activations", name, size, lost, loss_change, 0.99) for name, (size, lost) in UP.items()]
    return up + [CodecTrial("gradients", name, size, lost) for name, (size, lost) in DOWN.items()]


def chosen(**budget: float) -> Choice:
    return choose(trials(), CodecBudgetConfig(**budget))  # type: ignore[arg-type]


def test_without_a_bound_on_bytes_it_takes_the_fewest_that_lose_little() -> None:
    found = chosen()
    assert (found.codec, found.gradient_codec) == ("int3", "int2")
    assert "fewest bytes" in found.why and "1.20%" in found.why
    assert chosen(activation_error=0.005, gradient_error=0.02).why.count("int4") == 2


def test_a_change_of_the_loss_counts_whatever_is_lost() -> None:
    found = choose(trials(loss_change=-0.02), CodecBudgetConfig())
    assert found.codec == "bf16" and found.gradient_codec == "int2"


@pytest.mark.parametrize(("step_mb", "wanted"), [
    (20.0, ("bf16", "bf16")), (8.0, ("int8", "int8")), (6.5, ("int8", "int4")), (3.2, ("int4", "int2")),
    (2.0, ("int2", "int2")),
])  # fmt: skip
def test_with_a_bound_on_bytes_it_takes_the_finest_that_fits(step_mb: float, wanted: tuple[str, str]) -> None:
    found = chosen(step_mb=step_mb)
    assert (found.codec, found.gradient_codec) == wanted
    assert f"fits {step_mb:g} MB a step" in found.why
    assert ("loses more than" in found.why) == (wanted[0] == "int2")


def test_where_nothing_fits_it_takes_the_smallest_and_says_so() -> None:
    found = chosen(step_mb=0.1)
    assert (found.codec, found.gradient_codec) == ("int2", "int2")
    assert "more than 0.1 MB a step" in found.why and "loses more than" in found.why

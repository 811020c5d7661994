"""What is claimed, and what the results say of it. Pure.

A claim says in which region a comparison's mean lies. It holds where the whole 95 % interval of the mean,
paired by seed, lies in the region, it does not hold here where the whole interval lies outside, and else the
seeds do not tell. The intervals are not corrected for the number of claims.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from splitft.tools.report.paired import half_width
from studylib.results import Group, Paired, paired, ratios, relative_differences
from studylib.sweeps import (
    COMPUTE,
    DEVICE_GROUPS,
    IID,
    LONG_SWEEPS,
    MAKESPAN,
    PARTITIONS,
    SAME,
    SKEWED,
    SPLITFT,
    SWEEPS,
)

HOLDS = "holds"
FAILS = "does not hold here"
NOISE = "not distinguishable from seed noise"
UNMEASURED = "not measured"
LEAST = 1e-4  # relative differences up to here are none: orders of summation alone make some
MEASURES = {
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "bytes": "bytes moved",
    "virtual_seconds": "virtual time",
    "seconds_to_target": "virtual time to the same perplexity",
}
# One-sided 80 % quantiles of Student's t, by degrees of freedom; the last one stands for all above.
_T80 = (1.376, 1.061, 0.978, 0.941, 0.920, 0.906, 0.896, 0.889, 0.883, 0.879)
Kind = Literal["lower", "higher", "at most", "equal", "times"]
Place = tuple[str, str]  # group, arm


@dataclass(frozen=True)
class Claim:
    """One sentence, and the comparison that decides it.

    source: the paper, or ours (an expectation of this project). kind: of the relative difference
    arm / against − 1: lower or higher by more than LEAST, at most `bound`, equal (within ± bound); times:
    against / arm is `bound` or more.
    """

    sweep: str
    source: Literal["paper", "ours"]
    text: str
    measure: str
    arm: Place
    against: Place
    kind: Kind
    bound: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """verdict: one of the four above. figures: what it rests on, in words."""

    claim: Claim
    verdict: str
    figures: str
    result: Paired | None

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return asdict(self)


def decide(claim: Claim, groups: Mapping[str, Group]) -> Verdict:
    """Return what the results of the claim's sweep say of it."""
    arm = groups.get(claim.arm[0], {}).get(claim.arm[1], {})
    against = groups.get(claim.against[0], {}).get(claim.against[1], {})
    if claim.kind == "times":
        result = paired(ratios(against, arm, claim.measure))
    else:
        result = paired(relative_differences(arm, against, claim.measure))
    if result is None:
        return Verdict(claim, UNMEASURED, "no seed has both figures", None)
    return Verdict(claim, judge(claim.kind, claim.bound, result), describe(claim, result), result)


def judge(kind: Kind, bound: float, result: Paired) -> str:
    """Return the verdict on a comparison."""
    if result.low is None or result.high is None:
        return NOISE  # one seed says nothing of the spread
    ends = [inside(kind, bound, end) for end in (result.low, result.high)]
    if all(ends):
        return HOLDS
    # Between two ends outside, only a region with two bounds can lie.
    around = kind == "equal" and result.low < -bound and result.high > bound
    return NOISE if any(ends) or around else FAILS


def inside(kind: Kind, bound: float, value: float) -> bool:
    """Whether a value is in the claim's region."""
    regions = {
        "lower": value < -LEAST,
        "higher": value > LEAST,
        "at most": value <= bound,
        "equal": abs(value) <= bound,
        "times": value >= bound,
    }
    return regions[kind]


def describe(claim: Claim, result: Paired) -> str:
    """Return the comparison in words: mean, spread over seeds, interval, number of seeds."""
    seeds = len(result.values)
    what = f"{claim.arm[1]} against {claim.against[1]}"
    show = signed_percent
    if claim.kind == "times":
        show, what = times, f"{claim.against[1]} / {claim.arm[1]}"
    if claim.arm[0] != claim.against[0]:
        what = f"{claim.arm[0]} against {claim.against[0]}, {claim.arm[1]}"
    text = f"{MEASURES[claim.measure]}, {what}: {show(result.mean)}"
    if result.sd is None or result.low is None or result.high is None:
        return f"{text}; one seed"
    spread = show(result.sd).lstrip("+")
    told = f"95 % interval {show(result.low)} to {show(result.high)}; n = {seeds}"
    if claim.kind in ("lower", "higher") and seeds > 2:
        least = show(shown(result)).lstrip("+")
        told += f"; a true difference of {least} would show in four of five such studies"
    return f"{text} ± {spread} ({told})"


def shown(result: Paired) -> float:
    """Return the least true difference that so many seeds with this spread show with a power of 80 %.

    Source: the usual approximation, (t of the interval + t of the power) · sd / sqrt(n).
    """
    assert result.sd is not None
    count = len(result.values)
    power = _T80[min(count - 1, len(_T80)) - 1]
    return half_width(result.sd, count) + power * result.sd / math.sqrt(count)


def times(value: float) -> str:
    """Return a ratio."""
    return f"{value:.2f}×"


def signed_percent(value: float) -> str:
    """Return a relative difference in percent, with two significant digits where it is small."""
    percent = 100 * value
    if not percent:
        return "0 %"
    if abs(percent) < 0.01:
        return f"{percent:+.1e} %"
    return f"{percent:+.{max(1, 1 - math.floor(math.log10(abs(percent))))}f} %"


def _alpha(name: str) -> Claim:
    text = f"Adaptive cuts end at a lower perplexity than the same cut for all ({name})."
    return Claim("alpha", "paper", text, "perplexity", (name, SPLITFT), (name, SAME), "lower")


def _long(claims: Sequence[Claim]) -> list[Claim]:
    """Return the same claims about the runs of the paper's length, where they have the arms."""
    arms = {(name, group, arm) for name in LONG_SWEEPS for group, arm, _ in SWEEPS[name].arms()}
    moved = [
        replace(claim, sweep=f"long-{claim.sweep}", text=f"{claim.text[:-1]}, at the paper's length.")
        for claim in claims
    ]
    return [one for one in moved if all((one.sweep, *place) in arms for place in (one.arm, one.against))]


def _devices(bound: str, group: str) -> list[Claim]:
    same, seconds = (group, SAME), "seconds_to_target"
    claims = [
        Claim("heterogeneity", "paper", f"SplitFT's cuts reach the same perplexity sooner ({group}).",
              seconds, (group, SPLITFT), same, "lower"),
        Claim("heterogeneity", "ours", f"splitft ends within 0.5 % of the perplexity, or better ({group}).",
              "perplexity", (group, SPLITFT), same, "at most", 0.005),
        Claim("heterogeneity", "ours", f"makespan ends within 0.5 % of the perplexity, or better ({group}).",
              "perplexity", (group, MAKESPAN), same, "at most", 0.005),
    ]  # fmt: skip
    if bound == COMPUTE:
        text = f"makespan takes at least 2.5 times less virtual time to the same perplexity ({group})."
        claims.append(Claim("heterogeneity", "ours", text, seconds, (group, MAKESPAN), same, "times", 2.5))
    else:
        text = f"makespan reaches the same perplexity sooner ({group})."
        claims.append(Claim("heterogeneity", "ours", text, seconds, (group, MAKESPAN), same, "lower"))
    return claims


def _all(arm: str) -> Place:
    return ("all", arm)


SHORT_CLAIMS: tuple[Claim, ...] = (
    Claim("r-cut", "paper", "A rank of 8 instead of 16 at the cut costs no perplexity (at most 0.5 %).",
          "perplexity", _all("r_cut 8"), _all("r_cut 16"), "at most", 0.005),
    Claim("r-cut", "paper", "A rank of 8 instead of 16 at the cut saves traffic.",
          "bytes", _all("r_cut 8"), _all("r_cut 16"), "lower"),
    Claim("r-cut", "paper", "A rank of 1 at the cut ends at a lower accuracy than 8.",
          "accuracy", _all("r_cut 1"), _all("r_cut 8"), "lower"),
    Claim("r-cut", "ours", "A rank of 1 at the cut ends at a higher perplexity than 8.",
          "perplexity", _all("r_cut 1"), _all("r_cut 8"), "higher"),
    Claim("r-cut-side", "paper", "Lowering the rank on the client's side only hurts, against both sides.",
          "perplexity", _all("side client"), _all("side both"), "higher"),
    Claim("cut", "paper", "Cut 10 ends at a higher accuracy than cut 2.",
          "accuracy", _all("cut 10"), _all("cut 2"), "higher"),
    Claim("cut", "paper", "Cut 10 moves more bytes than cut 2.",
          "bytes", _all("cut 10"), _all("cut 2"), "higher"),
    Claim("cut", "paper", "Cut 10 takes longer than cut 2 (virtual time).",
          "virtual_seconds", _all("cut 10"), _all("cut 2"), "higher"),
    Claim("gamma", "paper", "Following the accuracies (gamma 0.5) ends at a lower perplexity than gamma 0.",
          "perplexity", _all("gamma 0.5"), _all("gamma 0.0"), "lower"),
    Claim("gamma", "paper", "Following them more (gamma 1) ends at a lower perplexity than gamma 0.",
          "perplexity", _all("gamma 1.0"), _all("gamma 0.0"), "lower"),
    *(_alpha(name) for name in PARTITIONS),
    Claim("alpha", "paper", "Strongly skewed data (alpha 0.1) end at a higher perplexity than IID.",
          "perplexity", (SKEWED, SAME), (IID, SAME), "higher"),
    Claim("baselines", "ours", "A split with one trunk adapter a client and full rank at the cut gives the "
          "perplexity of federated LoRA (within 0.1 %).",
          "perplexity", _all(f"{SAME}, r_cut 16"), _all("fed_lora"), "equal", 0.001),
    Claim("baselines", "ours", "Federated LoRA ends at a lower perplexity than every client alone.",
          "perplexity", _all("fed_lora"), _all("local_only"), "lower"),
    Claim("baselines", "ours", "All data in one place end at a lower perplexity than federated LoRA.",
          "perplexity", _all("centralized"), _all("fed_lora"), "lower"),
    *(claim for bound, group in DEVICE_GROUPS for claim in _devices(bound, group)),
)  # fmt: skip
CLAIMS = (*SHORT_CLAIMS, *_long(SHORT_CLAIMS))

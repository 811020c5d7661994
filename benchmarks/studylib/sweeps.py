"""What the study runs: named sweeps of groups of arms. Within a group, the first arm is the baseline.

Arms state every key that they are about, so that equal arms of different sweeps are one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SAME = "same cut"
SPLITFT = "splitft"
MAKESPAN = "makespan"
COMPUTE, LINK = "compute-bound", "link-bound"
SKEWED, IID = "alpha 0.1", "IID"
SPEEDS = (1.0, 1.68, 2.83, 4.76, 8.0)  # slowdowns of the five devices: 8:1, in equal ratios
LINKS_MBPS = (50.0, 28.1, 15.8, 8.9, 5.0)  # their links where links are the bound: 10:1
SPLIT = {"method": "same_split", "cuts": 2, "lora_r_cut": 8, "lora_r_cut_side": "both"}
ADAPTIVE = {**SPLIT, "method": "splitft", "cut_policy.method": "splitft"}
PARTITIONS = {
    SKEWED: {"partition.method": "length_dirichlet", "partition.alpha": 0.1},
    "alpha 0.5": {"partition.method": "length_dirichlet", "partition.alpha": 0.5},
    IID: {"partition.method": "iid", "partition.alpha": 0.5},
}
# The paper's own length: 1143 optimizer steps over all clients (docs/paper.md); here 23 rounds of 10 local
# steps of 5 clients. More held-out rows than in the short runs, which decide smaller differences.
LONG = {
    "rounds": 23, "local_steps": 10, "max_length": 32, "learning_rate": 1e-3, "lr_scheduler_type": "linear",
    "max_eval_samples": 192, "eval_every": 4, "cut_policy.adapt_every": 4,
    "server_batch_tokens": 640,  # all five clients at once: 12 % less CPU
}  # fmt: skip
LONG_NOTE = (
    "Runs of the paper's length: 23 rounds of 10 local steps of 5 clients, 1150 optimizer steps in all "
    "(the paper's are 1143); rows of up to 32 tokens, learning rate 0.001 with linear decay, 192 held-out "
    "rows; the server computes the five clients together."
)


@dataclass(frozen=True)
class Sweep:
    """title: a heading. groups: {group: {arm: keys}}; a sweep of one group calls it "all".

    planned: whether the plan of its jobs is compared with the virtual clock. seeds: fewest runs of each arm.
    note: what is not as in the other sweeps.
    """

    name: str
    title: str
    question: str
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]]
    planned: bool = False
    seeds: int = 1
    note: str = ""

    def arms(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (group, arm, keys) of every arm."""
        return [(group, arm, dict(keys)) for group, arms in self.groups.items() for arm, keys in arms.items()]


def devices(bound: str) -> dict[str, Any]:
    """Return keys for five devices, 8:1 in speed: laptops on an office's network, or fast ones on slow links.

    The slowest device has the slowest link.
    """
    profiles = {}
    for number, (slowdown, mbps) in enumerate(zip(SPEEDS, LINKS_MBPS, strict=True), start=1):
        if bound == COMPUTE:
            profile = {"preset": "laptop", "uplink_mbps": 500.0, "downlink_mbps": 500.0, "latency_ms": 5.0}
        else:
            profile = {"preset": "workstation", "uplink_mbps": mbps, "downlink_mbps": mbps}
        profiles[f"device-{number}"] = {**profile, "slowdown": slowdown}
    return {
        "clients": len(profiles),
        "devices": list(profiles),
        "device_profiles": profiles,
        "server_device": "gpu_server",
    }


Arms = dict[str, dict[str, Any]]


def _varied(label: str, key: str, values: Sequence[Any], base: Mapping[str, Any]) -> Arms:
    return {f"{label} {value}": {**base, key: value} for value in values}


_HETEROGENEITY = (
    *((bound, name, 16) for bound in (COMPUTE, LINK) for name in (SKEWED, IID)),
    (COMPUTE, SKEWED, 8),
)


def _group(bound: str, name: str, r_cut: int) -> str:
    return f"{bound}, {name}" + (f", r_cut {r_cut}" if r_cut < 16 else "")


DEVICE_GROUPS = tuple((bound, _group(bound, name, r_cut)) for bound, name, r_cut in _HETEROGENEITY)


def _heterogeneity() -> dict[str, Arms]:
    """One trunk adapter a client: with r_cut = r the cuts are then not seen in the result, bit by bit.

    With the paper's lower rank at the cut they are, so that case is measured beside it.
    """
    groups: dict[str, Arms] = {}
    for bound, name, r_cut in _HETEROGENEITY:
        keys = {**SPLIT, "server_adapter": "per_client", "lora_r_cut": r_cut, "cuts": 8}
        keys |= {**PARTITIONS[name], **devices(bound)}
        groups[_group(bound, name, r_cut)] = {
            SAME: keys,
            SPLITFT: {**keys, "method": "splitft", "cut_policy.method": "splitft"},
            MAKESPAN: {**keys, "method": "splitft", "cut_policy.method": "makespan"},
        }
    return groups


_LONG_SPLIT: dict[str, Any] = {**SPLIT, **LONG, **PARTITIONS[SKEWED]}
_LONG_TITLES = {
    "alpha": "Adaptive cuts",
    "r-cut": "Rank at the cut",
    "r-cut-side": "Rank at the cut: on which side",
    "cut": "Depth of the cut",
}


def _long(name: str, question: str, groups: Mapping[str, Arms]) -> Sweep:
    """Return a comparison of the paper at its own number of steps, with five seeds."""
    title = f"{_LONG_TITLES[name]}, at the paper's length"
    return Sweep(f"long-{name}", title, question, groups, seeds=5, note=LONG_NOTE)


SWEEPS: dict[str, Sweep] = {
    sweep.name: sweep
    for sweep in (
        Sweep(
            "r-cut",
            "Rank at the cut",
            "What does a lower rank on the two blocks at the cut cost?",
            {"all": _varied("r_cut", "lora_r_cut", (16, 8, 4, 2, 1), SPLIT)},
        ),
        Sweep(
            "r-cut-side",
            "Rank at the cut: on which side",
            "Is it worse to lower the rank on the client's side of the cut only?",
            {
                "all": {
                    **_varied("side", "lora_r_cut_side", ("both", "client"), SPLIT),
                    "side none": {**SPLIT, "lora_r_cut": None},
                }
            },
        ),
        Sweep(
            "cut",
            "Depth of the cut",
            "What does it change how many blocks the clients hold?",
            {"all": _varied("cut", "cuts", (2, 4, 6, 8, 10), SPLIT)},
        ),
        Sweep(
            "gamma",
            "Weight of the accuracies",
            "Does it help to give clients above the mean accuracy more blocks?",
            {"all": _varied("gamma", "cut_policy.gamma", (0.0, 0.5, 1.0), ADAPTIVE)},
        ),
        Sweep(
            "alpha",
            "Skew of the data",
            "Do adaptive cuts end at a lower perplexity than one cut for all, and how does skew matter?",
            {
                name: {SAME: {**SPLIT, **keys}, SPLITFT: {**ADAPTIVE, **keys}}
                for name, keys in PARTITIONS.items()
            },
        ),
        Sweep(
            "baselines",
            "Baselines",
            "Where does split fine-tuning stand between all data in one place and no exchange at all?",
            {
                "all": {
                    "fed_lora": {**SPLIT, "method": "fed_lora"},
                    "centralized": {**SPLIT, "method": "centralized"},
                    "local_only": {**SPLIT, "method": "local_only"},
                    f"{SAME}, r_cut 16": {**SPLIT, "lora_r_cut": 16, "server_adapter": "per_client"},
                    f"{SAME}, r_cut 8": {**SPLIT, "server_adapter": "per_client"},
                }
            },
        ),
        Sweep(
            "heterogeneity",
            "Devices that differ",
            "How much sooner is the same perplexity reached where the cuts follow the devices?",
            _heterogeneity(),
            planned=True,
        ),
        _long(
            "alpha",
            "Do adaptive cuts end at a lower perplexity than one cut for all?",
            {
                name: {SAME: {**_LONG_SPLIT, **keys}, SPLITFT: {**ADAPTIVE, **LONG, **keys}}
                for name, keys in PARTITIONS.items()
                if name in (SKEWED, IID)
            },
        ),
        _long(
            "r-cut",
            "What does a lower rank on the two blocks at the cut cost?",
            {"all": _varied("r_cut", "lora_r_cut", (16, 8, 1), _LONG_SPLIT)},
        ),
        _long(
            "r-cut-side",
            "Is it worse to lower the rank on the client's side of the cut only?",
            {"all": _varied("side", "lora_r_cut_side", ("both", "client"), _LONG_SPLIT)},
        ),
        _long(
            "cut",
            "What does it change how many blocks the clients hold?",
            {"all": _varied("cut", "cuts", (2, 10), _LONG_SPLIT)},
        ),
    )
}
LONG_SWEEPS = tuple(name for name, sweep in SWEEPS.items() if sweep.note)

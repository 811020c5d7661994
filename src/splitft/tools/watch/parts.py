"""From the records of a run to what its live page shows of them, whatever a file may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from splitft.common.text import plain, short

MOST_MOVES = 40  # of a decision, told one by one
MOST_TOLD = 16  # clients of a run up to which those are told, too, whose cut stays
LONGEST_NAME, LONGEST_TEXT = 80, 400
LEVEL = (
    "perplexity", "perplexity_interval", "perplexity_change", "change_interval", "eval_rows", "held_out_rows"
)  # fmt: skip
PARTS = ("compute", "transfer", "server", "queued", "idle")  # of a client's seconds by the virtual clock
MOST_QUEUES = 12


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def number(value: Any) -> float | int | None:
    """Return a finite number as it is; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def rounded(value: Any, digits: int = 5) -> float | None:
    """Return a number with so many significant digits."""
    found = number(value)
    return None if found is None else float(f"{found:.{digits}g}")


def words(value: Any, most: int = LONGEST_TEXT) -> str:
    """Return a text of anybody's as one line without control characters; empty for what is none."""
    return short(plain(value), most) if isinstance(value, str) else ""


class Names:
    """The clients of a run by number, in the order in which they become known."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def add(self, names: Any) -> None:
        """Take in names, of a list or a mapping."""
        for name in names if isinstance(names, list | tuple | Mapping) else ():
            if isinstance(name, str):
                self.numbers.setdefault(name, len(self.numbers))

    def of(self, name: Any) -> int | None:
        """Return the number of a client; None where it is none."""
        return self.numbers.get(name) if isinstance(name, str) else None


def round_entry(line: Mapping[str, Any], names: Names, before: Sequence[int | None]) -> dict[str, Any]:
    """Return what the page shows of a round. before: the cuts of the last one; equal ones are left out."""
    cuts = cuts_of(line, names)
    moved, seconds = line.get("bytes"), [line.get("round_seconds"), line.get("evaluation_seconds")]
    training = sum(
        int(number(count) or 0)
        for kinds in mapping(moved).values()
        for kind, count in mapping(kinds).items()
        if kind not in ("evaluation", "held_out")
    )
    return {
        "round": int(number(line.get("round")) or 0),
        "loss": rounded(line.get("loss")),
        "evaluated": number(line.get("perplexity")) is not None,
        "change": number(line.get("perplexity_change")),
        "interval": number(line.get("change_interval")),
        "accuracy": rounded(line.get("accuracy")),
        "seconds": rounded(sum(number(value) or 0 for value in seconds)),
        "virtual": rounded(line.get("virtual_seconds")),
        "bytes": training if moved else int(number(line.get("bytes_up")) or 0),
        "waited_for": names.of(line.get("waited_for")),
        "cuts": None if cuts == list(before) else cuts,
    }


def cuts_of(line: Mapping[str, Any], names: Names) -> list[int | None]:
    """Return the cut of every client by its number, None where there is none."""
    found: list[int | None] = [None] * len(names.numbers)
    for name, cut in mapping(line.get("cuts")).items():
        place, value = names.of(name), number(cut)
        if place is not None and value is not None:
            found[place] = int(value)
    return found


def decision_entry(line: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return what the page shows of a decision: whose cut moved and why; in small runs also whose stayed."""
    seen = mapping(line.get("observation")).get("clients")
    before = {mapping(c).get("name"): mapping(c).get("cut") for c in (seen if isinstance(seen, list) else ())}
    cuts, reasons = mapping(line.get("cuts")), mapping(line.get("reasons"))
    moves: list[dict[str, Any]] = []
    stays: list[dict[str, Any]] = []
    for name, cut in cuts.items():
        entry: dict[str, Any] = {"client": names.of(name), "why": words(reasons.get(name))}
        entry |= {"from": number(before.get(name)), "to": number(cut)}
        (stays if entry["from"] == entry["to"] else moves).append(entry)
    told = moves[:MOST_MOVES] + (stays if len(cuts) <= MOST_TOLD else [])
    return {
        "round": int(number(line.get("round")) or 0),
        "policy": words(line.get("policy"), LONGEST_NAME),
        "moved": number(line.get("moved")) or len(moves),  # as counted, where not all are told
        "stayed": number(line.get("stayed")) or len(stays),
        "clients": told,
    }


def times_entry(line: Mapping[str, Any], names: Names) -> dict[str, Any] | None:
    """Return where the seconds of a round went, by the virtual clock; None without one."""
    parts = {
        str(place): [rounded(mapping(own["virtual"]).get(part), 4) or 0.0 for part in PARTS]
        for name, own in mapping(line.get("clients")).items()
        if (place := names.of(name)) is not None and mapping(own).get("virtual")
    }
    if not parts:
        return None
    queues = [
        (names.of(name), names.of(other), rounded(seconds, 3))
        for name, others in mapping(line.get("queued_behind")).items()
        for other, seconds in mapping(others).items()
    ]
    known = [queue for queue in queues if None not in queue]
    return {
        "round": number(line.get("round")),
        "seconds": rounded(line.get("virtual_seconds")),
        "waited_for": names.of(line.get("waited_for")),
        "parts": parts,
        "queued": sorted(known, key=lambda queue: -(queue[2] or 0.0))[:MOST_QUEUES],
    }


def job_entry(job: Mapping[str, Any]) -> list[list[str]]:
    """Return the keys of a job that the page shows, with their values as text."""
    policy = mapping(job.get("cut_policy")).get("method")
    pairs = {
        "model": job.get("model_name_or_path"),
        "data": job.get("dataset_name") or job.get("data_files"),
        "method": job.get("method"),
        "cut policy": policy,
        "order": job.get("order"),
        "labels": job.get("labels"),
        "LoRA rank": job.get("lora_r"),
        "rank at the cut": job.get("lora_r_cut"),
        "codec": job.get("codec"),
        "local steps": job.get("local_steps"),
        "learning rate": job.get("learning_rate"),
    }
    return [[key, words(str(value), 160)] for key, value in pairs.items() if value is not None]


def devices_entry(job: Mapping[str, Any], names: Names) -> list[str]:
    """Return each client's device by its number; empty where there are none."""
    devices, every = job.get("devices"), list(names.numbers)
    if isinstance(devices, str):
        return [words(devices, LONGEST_NAME)] * len(every)
    if isinstance(devices, list):
        devices = dict(zip(every, devices, strict=False))
    given = mapping(devices)
    return [words(given.get(name), LONGEST_NAME) for name in every] if given else []


def privacy_entry(line: Mapping[str, Any]) -> dict[str, float | str]:
    """Return the privacy reading of a round; empty where it has none."""
    found: dict[str, float | str] = {}
    for key, value in mapping(line.get("privacy")).items():
        shown = words(value, LONGEST_NAME) if isinstance(value, str) else rounded(value)
        if shown is not None:
            found[words(key, LONGEST_NAME)] = shown
    return found

"""One row of the live page for each client: where it stands, and its last figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitft.tools.watch.parts import Names, mapping, number, rounded, words

# Standings of `members.json` that say more than what the round asks of a client.
TOLD = ("expelled", "dropped", "away", "not ready", "invited")


def client_rows(
    live: Mapping[str, Any],
    members: Mapping[str, Any],
    last: Mapping[str, Any],
    names: Names,
    cuts: list[int | None],
    running: bool,
) -> dict[str, dict[str, Any]]:
    """Return {number: row} of all clients.

    live, members: what the files hold; empty without them. last: the last line of the history. cuts: of the
    last round by client, where the live file has none.
    """
    doing = _doing(live) if running else {}
    now, seen, known = mapping(live.get("cuts")), mapping(live.get("clients")), mapping(last.get("clients"))
    rows = {}
    for name, place in names.numbers.items():
        own, trained = mapping(seen.get(name)), mapping(known.get(name))
        member = mapping(members.get(name))
        standing = member.get("standing")
        row = {
            "state": standing if standing in TOLD else doing.get(name) or ("ready" if running else ""),
            "reason": words(member.get("reason")),
            "cut": number(now.get(name)) or (cuts[place] if place < len(cuts) else None),
            "loss": rounded(own.get("loss", trained.get("loss"))),
            "round": number(own.get("round")),
            "step": number(own.get("step")),
            "at": number(own.get("at")),
            "steps_per_second": rounded(own.get("steps_per_second"), 3),
            "tokens_per_second": rounded(own.get("tokens_per_second"), 4),
            "up": number(own.get("bytes_up")),
            "down": number(own.get("bytes_down")),
            "perplexity": rounded(trained.get("perplexity")),
            "change": rounded(trained.get("perplexity_change")),
        }
        rows[str(place)] = {key: value for key, value in row.items() if value is not None and value != ""}
    return rows


def _doing(live: Mapping[str, Any]) -> dict[str, str]:
    """Return {client: what it does} in the phase that the run is in."""
    phase, cohort = live.get("phase"), live.get("cohort")
    members = cohort if isinstance(cohort, list) else []
    if phase == "evaluating":
        return dict.fromkeys(mapping(live.get("cuts")), "evaluating")
    if phase != "training":
        return {}
    last, seen = (number(live.get("steps")) or 1) - 1, mapping(live.get("clients"))
    found = dict.fromkeys(mapping(live.get("cuts")), "not in this round")
    for name in members:
        own = mapping(seen.get(name))
        done = own.get("round") == live.get("round") and (number(own.get("step")) or 0) >= last
        found[name] = "done with its steps" if done else "training"
    return found

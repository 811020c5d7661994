"""Perplexities of evaluations that took samples, on the level of the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Level = tuple[float | None, float | None]  # a perplexity, and the half-width of its 95 % interval


def levels(lines: Sequence[Mapping[str, Any]]) -> list[Level]:
    """Return the perplexity of each evaluation, on the level of the last one where that took all rows.

    A sample tells a change better than a level: from the last perplexity the changes on the sample's rows
    lead back. Half-width: at most the two changes' together.

    Args:
        lines: Evaluations in order, each as a line of history.jsonl.
    """
    last = lines[-1] if lines else {}
    end, changed = last.get("perplexity"), last.get("perplexity_change")
    whole = last.get("eval_rows") == last.get("held_out_rows")
    found: list[Level] = []
    for line in lines:
        own = line.get("perplexity"), line.get("perplexity_interval")
        if (
            own[0] is not None
            and end
            and changed is not None
            and changed > -1  # a last evaluation of likelihood 1 tells nothing of the others
            and whole
            and (line.get("perplexity_change") is not None or not line.get("round"))  # else on other rows
            and _sampled(line)
        ):
            perplexity = end * (1 + (line.get("perplexity_change") or 0.0)) / (1 + changed)
            widths = [_log_width(line), _log_width(last)]
            own = perplexity, None if None in widths else perplexity * sum(w for w in widths if w)
        found.append(own)
    return found


def _sampled(line: Mapping[str, Any]) -> bool:
    return (line.get("eval_rows") or 0) < (line.get("held_out_rows") or 0)


def _log_width(line: Mapping[str, Any]) -> float | None:
    """Return the half-width of the change's logarithm; 0 at the start, from which changes are counted."""
    change, width = line.get("perplexity_change"), line.get("change_interval")
    if change is None:
        return 0.0
    return None if width is None or change <= -1 else width / (1 + change)

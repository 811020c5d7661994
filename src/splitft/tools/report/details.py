"""Tables of each variant below the charts: runs, keys, cuts, truncation, decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitft.tools.report.groups import Variant
from splitft.tools.report.labels import value_text
from splitft.tools.report.runs import RunFolder
from splitft.tools.report.series import cuts_by_round, points
from splitft.tools.report.units import figure

Row = tuple[str, ...]


def details(variant: Variant) -> dict[str, list[Row]]:
    """Return {table: rows} of what has no place in a chart; `keys` and `runs` apart, of the first seed."""
    first = variant.runs[0]
    left_out = [(_name(run), str(run.seed), f"left out: {why}", "–", "–") for run, why in variant.left_out]
    return {
        "keys": [(key, value_text(key, value)) for key, value in variant.differs.items()],
        "runs": [*map(_run, variant.runs), *left_out],
        "clients": _clients(first),
        "truncation": _truncation(first),
        "decisions": _decisions(first),
        "samples": _samples(first),
    }


def _run(run: RunFolder) -> Row:
    evaluated = points(run)
    last = evaluated[-1].perplexity if evaluated else None
    how = "finished" if run.finished else f"interrupted after round {run.last_round} of {run.job['rounds']}"
    seconds = sum(line.get("round_seconds", 0.0) for line in run.rounds)
    width = evaluated[-1].interval if evaluated else None
    shown = "–" if last is None else figure(last) + (f" ± {figure(width)}" if width else "")
    return (_name(run), str(run.seed), how, shown, f"{seconds:,.1f}")


def _name(run: RunFolder) -> str:
    return run.path.name or str(run.path)


def _clients(run: RunFolder) -> list[Row]:
    """Client, cut first and last, tokens trained, perplexity before and after on its own held-out rows."""
    evaluated = [line for line in run.rounds if line.get("perplexity") is not None]
    cuts = cuts_by_round(run)
    rows: list[Row] = []
    for name in run.rounds[-1].get("clients", {}):
        tokens = sum(line["clients"].get(name, {}).get("train_tokens", 0) for line in run.rounds)
        ends = [_perplexity(line, name) for line in (evaluated[:1] + evaluated[-1:])] or ["–", "–"]
        steps = [cut for _, cut in cuts.get(name, ())]
        cut = "–" if not steps else f"{steps[0]}" if len(set(steps)) == 1 else f"{steps[0]} → {steps[-1]}"
        rows.append((name, cut, f"{tokens:,}", ends[0], ends[-1]))
    return rows


def _perplexity(line: Mapping[str, Any], name: str) -> str:
    value = line["clients"].get(name, {}).get("perplexity")
    return "–" if value is None else figure(value)


def _truncation(run: RunFolder) -> list[Row]:
    """Block, mean and largest truncation error of the rounds in which it was truncated, in %."""
    errors: dict[str, list[float]] = {}
    for line in run.rounds:
        for block, value in (line.get("truncation_error") or {}).items():
            if value is not None:
                errors.setdefault(str(block), []).append(float(value))
    order = sorted(errors, key=lambda block: (len(block), block))
    return [(b, f"{100 * sum(errors[b]) / len(errors[b]):.3g}", f"{100 * max(errors[b]):.3g}") for b in order]


def _samples(run: RunFolder) -> list[Row]:
    """Client, prompt, and how it goes on: as written, before and after the run."""
    columns = ("client", "prompt", "written", "before", "after")
    samples = run.summary.get("samples")
    found = [sample for sample in samples if isinstance(sample, dict)] if isinstance(samples, list) else []
    return [tuple(str(sample.get(column, "–")) for column in columns) for sample in found]


def _decisions(run: RunFolder) -> list[Row]:
    """Round, client, cut before and after, target, reason; a cut that stays without a reason is left out."""
    rows: list[Row] = []
    for decision in run.decisions:
        before = {c.get("name"): c.get("cut") for c in decision.get("observation", {}).get("clients", ())}
        for name, cut in decision.get("cuts", {}).items():
            reason = str(decision.get("reasons", {}).get(name, ""))
            if cut == before.get(name) and not reason:
                continue
            target = decision.get("targets", {}).get(name)
            shown = f"{before.get(name, '–')} → {cut}" if cut != before.get(name) else str(cut)
            aim = f"{target:.2f}" if isinstance(target, int | float) else "–"
            rows.append((str(decision.get("round", "–")), str(name), shown, aim, reason))
    return rows

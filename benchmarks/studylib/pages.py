"""The results page in Markdown: verdicts first, then a table for each group of each sweep. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from splitft.tools.report.units import figure, mean_and_sd, places
from studylib.claims import CLAIMS, FAILS, HOLDS, NOISE, UNMEASURED, Verdict, decide, signed_percent, times
from studylib.published import published_section
from studylib.results import Group, Seeds, by_seed, paired, ratios, relative_differences
from studylib.sweeps import SWEEPS, Sweep

MARKS = {HOLDS: "✔", FAILS: "✘", NOISE: "~", UNMEASURED: "–"}


@dataclass(frozen=True)
class Column:
    """heading with its unit; value of an arm and the group's baseline."""

    heading: str
    cell: Callable[[Seeds, Seeds], str]


def page(sweeps: Mapping[str, Mapping[str, Any]], settings: str) -> str:
    """Return the page of all sweeps that have results, in the study's order.

    sweeps: {name: {groups, missing, plot: a file or None}}. settings: a paragraph on the setup.
    """
    parts = ["# The study", settings, *_verdict_table(sweeps), *published_section(sweeps)]
    for name, sweep in SWEEPS.items():
        if name in sweeps:
            parts += sweep_section(sweep, sweeps[name])
    return "\n\n".join(parts) + "\n"


def verdicts_of(name: str, groups: Mapping[str, Group]) -> list[Verdict]:
    """Return the verdict on every claim about a sweep."""
    return [decide(claim, groups) for claim in CLAIMS if claim.sweep == name]


def verdict_line(verdict: Verdict) -> str:
    """Return a verdict in one line."""
    mark, claim = MARKS[verdict.verdict], verdict.claim
    return f"{mark} **{verdict.verdict}** ({claim.source}): {claim.text} {verdict.figures}."


def in_short(verdict: Verdict) -> str:
    """Return the mean of a comparison ± its standard deviation over seeds."""
    if verdict.result is None:
        return ""
    show = times if verdict.claim.kind == "times" else signed_percent
    mean, sd = verdict.result.mean, verdict.result.sd
    return show(mean) + ("" if sd is None else f" ± {show(sd).lstrip('+')}")


def sweep_section(sweep: Sweep, results: Mapping[str, Any]) -> list[str]:
    """Return the paragraphs of one sweep."""
    groups: Mapping[str, Group] = results["groups"]
    parts = [f"## {sweep.title}", f"{sweep.question} `python benchmarks/study.py {sweep.name}`"]
    if sweep.note:
        parts.append(sweep.note)
    if results.get("missing"):
        parts.append(f"Not complete; not finished: {'; '.join(results['missing'])}.")
    if results.get("plot"):
        parts.append(f"![{sweep.title}]({results['plot']})")
    for group, arms in groups.items():
        parts += [f"**{group}**"] if len(groups) > 1 else []
        parts += [group_table(arms), *conditions(arms)]
    lines = [f"- {verdict_line(verdict)}" for verdict in verdicts_of(sweep.name, groups)]
    return [*parts, "\n".join(lines)]


def group_table(arms: Group) -> str:
    """Return the table of a group: mean ± sd over seeds, and differences to its first arm, paired by seed."""
    baseline = next(iter(arms.values()))
    first = next(iter(arms))
    columns = [
        Column("perplexity", lambda arm, _: spread(arm, "perplexity")),
        Column(f"against {first}", lambda arm, base: difference(arm, base, "perplexity")),
        Column("accuracy, %", lambda arm, _: spread(arm, "accuracy", 100, 3)),
        Column("paper_accuracy, %", lambda arm, _: spread(arm, "paper_accuracy", 100, 3)),
        Column("moved, MB", lambda arm, _: spread(arm, "bytes", 1e-6)),
        Column("virtual time, s", lambda arm, _: spread(arm, "virtual_seconds")),
        Column("to the same perplexity, s", lambda arm, _: spread(arm, "seconds_to_target")),
        Column("sooner", lambda arm, base: factor(base, arm, "seconds_to_target")),
    ]
    rows = {label: [column.cell(arm, baseline) for column in columns] for label, arm in arms.items()}
    rows[first][1] = rows[first][7] = ""
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows.values())]
    heading = ["variant", "seeds", *(columns[i].heading for i in shown)]
    lines = ["| " + " | ".join(heading) + " |", "|---|" + "---:|" * (len(heading) - 1)]
    for label, row in rows.items():
        lines.append("| " + " | ".join([label, str(len(arms[label])), *(row[i] for i in shown)]) + " |")
    return "\n".join(lines)


def conditions(arms: Group) -> list[str]:
    """Return lines on the devices: share of transfer, cuts in the end, the plan against the clock."""
    first, baseline = next(iter(arms.items()))
    shares = list(by_seed(baseline, "transfer_share").values())
    if not shares:
        return []
    text = (
        f"Transfer is {100 * min(shares):.1f} to {100 * max(shares):.1f} % of the time of the client that is "
    )
    lines = [f"- {text}busy longest ({first})."]
    for label, arm in arms.items():
        cuts = [",".join(map(str, figures["final_cuts"].values())) for figures in arm.values()]
        text = (
            f"- {label}: cuts in the end, by seed: {' / '.join(cuts)}" if any(cuts) else f"- {label}: no cuts"
        )
        for seed, seconds in by_seed(arm, "planned_seconds").items():
            clock = arm[seed]["virtual_seconds"]
            text += f"; the plan of seed {seed} says {figure(seconds)} s, the clock {figure(clock)} s"
            text += f" ({signed_percent(seconds / clock - 1)})"
            if (told := arm[seed].get("told_seconds")) is not None:
                text += f"; told the cuts that the accuracies led to, {figure(told)} s"
                text += f" ({signed_percent(told / clock - 1)})"
        lines.append(f"{text}.")
    return ["\n".join(lines)]


def spread(arm: Seeds, measure: str, factor: float = 1.0, digits: int = 4) -> str:
    """Return mean ± sd over seeds; empty without values."""
    result = paired([value * factor for value in by_seed(arm, measure).values()])
    return "" if result is None else mean_and_sd(result.mean, result.sd, places(result.mean, digits))


def difference(arm: Seeds, baseline: Seeds, measure: str) -> str:
    """Return the mean of the paired relative differences ± their sd; empty without pairs."""
    result = paired(relative_differences(arm, baseline, measure))
    if result is None:
        return ""
    sd = "" if result.sd is None else f" ± {signed_percent(result.sd).lstrip('+')}"
    return signed_percent(result.mean) + sd


def factor(slow: Seeds, fast: Seeds, measure: str) -> str:
    """Return the mean of the paired ratios ± their sd; empty without pairs."""
    result = paired(ratios(slow, fast, measure))
    if result is None:
        return ""
    return f"{result.mean:.2f}×" + ("" if result.sd is None else f" ± {result.sd:.2f}")


def _verdict_table(sweeps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    verdicts = [v for name in SWEEPS if name in sweeps for v in verdicts_of(name, sweeps[name]["groups"])]
    if not verdicts:
        return []
    counts = Counter(verdict.verdict for verdict in verdicts)
    told = ", ".join(f"{key}: {counts[key]}" for key in MARKS if counts[key])
    lines = ["| verdict | claim | of | measured |", "|---|---|---|---|"]
    for v in verdicts:
        lines.append(
            f"| {MARKS[v.verdict]} {v.verdict} | {v.claim.text} | {v.claim.source} | {in_short(v)} |"
        )
    rule = (
        "Each claim is a comparison paired by seed. It holds where the whole 95 % t interval of the mean "
        "lies where the claim says, it does not hold here where the whole interval lies elsewhere, and is "
        "else not distinguishable from the noise of the seeds. The intervals are not corrected for the "
        "number of claims, and few seeds make them wide."
    )
    return ["## What holds", f"{told[:1].upper()}{told[1:]}. {rule}", "\n".join(lines)]

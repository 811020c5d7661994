"""Every causal and vision-language type: exact, right with real ids, refused, or not built."""

from __future__ import annotations

import io
from collections import defaultdict

import pytest
from rich.console import Console

from splitft.launch.check import architecture_table, totals
from splitft.proof.every_type import causal_types, check_all_architectures


@pytest.mark.slow
def test_most_types_are_exact_and_none_is_silently_wrong() -> None:
    reports = check_all_architectures()
    by_verdict: dict[str, set[str]] = defaultdict(set)
    for report in reports:
        by_verdict[report.verdict].add(report.model_type)
    out = io.StringIO()
    Console(file=out, width=200).print(architecture_table(reports), totals(reports))
    print(out.getvalue())
    assert [report.model_type for report in reports] == causal_types()
    exact = by_verdict["exact"] | by_verdict["exact with real ids"]
    assert len(by_verdict["exact"]) >= 185
    assert sum(report.splits for report in reports) >= 220
    assert {"xlm", "hy_v4"} <= by_verdict["refused"]
    # Types that see later tokens, or whose labels are not shifted.
    no_next_token = {
        "bert",
        "roberta",
        "xlnet",
        "camembert",
        "electra",
        "bart",
        "pegasus",
        "marian",
        "whisper",
    }
    assert no_next_token <= by_verdict["splits only"]
    for report in reports:
        if report.ok:
            assert report.targets and not set(report.targets) & set(report.left_out)
    for report in reports:
        if report.model_type in exact:
            assert report.max_logit_difference == 0 and report.max_gradient_difference <= 1e-6
        else:
            assert report.reason
    whole = [report for report in reports if report.ok and report.head == "whole"]
    assert len(whole) <= 3, [(report.model_type, report.head_reason) for report in whole]
    # These read the text, or what earlier blocks made, again: never exact with dummy ids.
    rereading = {"zamba", "zamba2", "gemma3n_text", "gemma4_text", "inkling2_text", "deepseek_v4"}
    assert rereading <= by_verdict["exact with real ids"] | by_verdict["refused"]

"""The membership attack of `splitft audit --run` beside PrivacyGuard's analysis of the same scores.

Needs PrivacyGuard (Meta; `pip install privacyguard-platform`), which SplitFT does not: install it into an
environment of its own and run there, with SplitFT's source on the path:

    PYTHONPATH=src python benchmarks/membership.py RUN... [--rows 60]

RUN: folders of finished runs. Both are given how much lower the run's adapter makes the loss of each training
row and each held-out row. SplitFT states the AUC with DeLong's interval; PrivacyGuard the mean AUC of 1000
bootstrap samples with their interval, and an empirical epsilon at delta 1e-3 of the first half of the rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from splitft.job import load_job
from splitft.lora.blocks import to_device
from splitft.running.export import load_adapter
from splitft.running.prepare import assemble
from splitft.tools.audit.adapter import row_scores
from splitft.tools.audit.attacks.adapter import membership

DELTA = 1e-3


def by_privacy_guard(trained: Any, held_out: Any) -> Any:
    """Return PrivacyGuard's analysis of scores, higher where a row was trained on."""
    import pandas as pd
    from privacy_guard.analysis.mia.aggregate_analysis_input import AggregateAnalysisInput, AggregationType
    from privacy_guard.analysis.mia.analysis_node import AnalysisNode

    train, test = (
        pd.DataFrame({"score": scores, "user_id": np.arange(len(scores))}) for scores in (trained, held_out)
    )
    given = AggregateAnalysisInput(AggregationType.NONE, train, test, "user_id")
    return AnalysisNode(given, delta=DELTA, n_users_for_eval=min(len(train), len(test)) // 2).run_analysis()


def main() -> None:
    """Print a line for each client of each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--rows", type=int, default=60, help="most rows of each kind")
    options = parser.parse_args()
    for folder in options.runs:
        start = assemble(load_job(folder / "job.yaml"), Console(quiet=True))
        slots = start.split_model.slots
        adapter = to_device(load_adapter(folder / "adapter", slots, start.job), start.device)
        for client in start.clients:
            scores = row_scores(start, client, adapter, options.rows)
            own, theirs = membership(*scores), by_privacy_guard(*scores)
            assert own is not None
            low, high = (float(np.ravel(side)[0]) for side in theirs.auc_ci)
            print(
                f"{folder.name}, {client.name}: SplitFT AUC {own.auc:.3f} [{own.low:.3f}, {own.high:.3f}], "
                f"PrivacyGuard {theirs.auc:.3f} [{low:.3f}, {high:.3f}], empirical epsilon "
                f"{theirs.eps_cp:.2f} ({own.trained} and {own.held_out} rows)",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Notices of a run's data: what a person may not expect, and the key that changes it."""

from __future__ import annotations

from collections.abc import Sequence

from splitft.common.text import first_few
from splitft.data.report import DataReport
from splitft.job.data import DataSettings

LEAKED = 0.05  # share of the evaluation rows from which leakage is worth a notice
LOST = 0.5  # share of all tokens from which rows cut at max_length are


def data_notices(job: DataSettings, sources: Sequence[str], report: DataReport) -> list[str]:
    """Return a notice for each such fact. sources: names of the files that the rows came from."""
    notices = []
    listed = isinstance(job.data_files, str | list) and len(sources) > 1
    if listed and "method" not in job.partition.model_fields_set:
        notices.append(
            f"the rows of {len(sources)} files are put together and dealt to {job.clients} clients at random "
            f"(partition.method {job.partition.method}); for one client per file set partition.method=files"
        )
    if isinstance(job.eval_files, dict):
        without = [client.name for client in report.clients if not client.eval_rows]
        if without:
            notices.append(f"eval_files has no rows for {first_few(without, 5)}: not evaluated there")
    leaked, rows = report.leaked_eval_rows, max(report.eval_rows, 1)
    if leaked >= LEAKED * rows:
        side = "evaluation" if report.eval_set else "held-out"
        remedy = "" if report.eval_set else ", or name the column that copies share as document_column"
        notices.append(
            f"{leaked:,} of {rows:,} {side} rows are also training rows, word for word, and their perplexity "
            f"is lower than that of new text; remove the copies{remedy}"
        )
    if report.truncated_share >= LOST:
        notices.append(
            f"max_length={job.max_length} cuts {report.truncated:,} rows and loses "
            f"{100 * report.truncated_share:.0f} % of all tokens; truncation_mode=chunk keeps them, as "
            "several rows, or raise max_length"
        )
    return notices

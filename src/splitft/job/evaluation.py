"""Keys of evaluation: where, when, and on which held-out rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from splitft.job.sections import Count, Name, Strict, key


class PlaceSettings(Strict):
    """The place of evaluation."""

    server_evaluates: bool | None = key(
        None,
        "true: clients send the token ids of their held-out rows once, and the server evaluates these rows "
        "by itself, on the whole model. false: their activations cross the cut at every evaluation. Default: "
        "true with labels: server (labels are the same ids) unless eval_codec is set; labels: client needs "
        "false.",
    )


class MetricSettings(Strict):
    """What is measured on held-out rows."""

    metrics: list[Name] = key(
        [],
        "Metrics beside perplexity and accuracy: top5_accuracy (the token is among the five likeliest), or "
        "registered ones. The mean over held-out tokens.",
    )


class RowsSettings(Strict):
    """The evaluations of a run, and their rows."""

    eval_every: Count = key(
        1, "Rounds from one evaluation to the next (also before the first and at the end)."
    )
    eval_precision: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] | None = key(
        "auto",
        "Rows of the evaluations before the last, which takes all: a seeded sample, the same one each time. "
        "0.05: as many held-out rows as a 95 % interval of the perplexity of ± 5 % takes. auto: 0.08 of the "
        "rows trained since the evaluation before, so that evaluation stays a small share of the run, "
        "whatever the interval, which the run shows. 0 or null: all rows every time.",
    )
    eval_clients: Count | None = key(
        None,
        "Clients that each evaluation takes, the last one too: a seeded sample, the same clients each time "
        "as far as they are there. Default: all that are there.",
    )

"""Metrics of held-out tokens by name, beside perplexity and accuracy, which every run has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import overload

import torch
from torch import Tensor

from splitft.common.registry import Registry
from splitft.common.text import error_line
from splitft.errors import JobError

TokenMetric = Callable[[Tensor, Tensor], Tensor]


def top5_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 for each token that is among the five likeliest, else 0."""
    likeliest = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    return (likeliest == labels[:, None]).any(-1).float()


METRICS: Registry[TokenMetric] = Registry("metric", "register_metric", {"top5_accuracy": top5_accuracy})


@overload
def register_metric(name: str, function: TokenMetric) -> TokenMetric: ...
@overload
def register_metric(name: str, function: None = None) -> Callable[[TokenMetric], TokenMetric]: ...
def register_metric(
    name: str, function: TokenMetric | None = None
) -> TokenMetric | Callable[[TokenMetric], TokenMetric]:
    """Register a metric of your own for `metrics: [NAME]`; without a function, a decorator.

    function: takes the logits of some held-out tokens, (tokens, vocabulary), and the tokens that came,
        (tokens,), and returns a number for each, (tokens,). Their mean is the metric. The party with the
        output head computes it: the server, or with `labels: client` the clients.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return METRICS.register(name, function)


class MetricSums:
    """The sums of several metrics over the tokens of a batch, chunk by chunk."""

    def __init__(self, metrics: Mapping[str, TokenMetric]) -> None:
        self._metrics = metrics
        self._sums = dict.fromkeys(metrics, 0.0)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add tokens. Raises JobError where a metric fails or returns anything but finite numbers."""
        for name, metric in self._metrics.items():
            try:
                each = metric(logits, labels)
            except Exception as error:  # a metric is any code
                raise JobError(f"metric {name} failed: {error_line(error)}") from error
            if not isinstance(each, Tensor) or each.shape != labels.shape:
                came = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
                raise JobError(f"metric {name} must return {tuple(labels.shape)} numbers, it returned {came}")
            total = float(each.double().sum())
            if not torch.isfinite(torch.tensor(total)):
                raise JobError(f"metric {name} returned a value that is infinite or not a number")
            self._sums[name] += total

    def result(self) -> Tensor | None:
        """Return the sums, (metrics,) float64 on the CPU; None without metrics."""
        return torch.tensor(list(self._sums.values()), dtype=torch.float64) if self._sums else None


def find_metrics(names: Iterable[str]) -> dict[str, TokenMetric]:
    """Return the metrics of a job by name."""
    return {name: METRICS.find(name) for name in names}

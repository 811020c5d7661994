"""The contract of a metric."""

from __future__ import annotations

import torch

from splitft.model.metrics import MetricSums, TokenMetric
from splitft.testing.contract import contract, require


def check_metric(function: TokenMetric, vocabulary: int = 50) -> None:
    """Check a metric as it is registered: a finite number for each token, whatever other tokens are with it.

    Logits are random, in float32 and in bfloat16, and equal for all tokens of the vocabulary.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, vocabulary, generator=generator)
    labels = torch.randint(vocabulary, (12,), generator=generator)
    for given in (logits, logits.bfloat16(), torch.zeros_like(logits)):
        before = given.clone()
        parts = []
        for places in (slice(0, 12), slice(0, 5), slice(5, 12)):
            sums = MetricSums({"under test": function})
            with contract():
                sums.add(given[places], labels[places])
            found = sums.result()
            parts.append(0.0 if found is None else float(found))
        require(torch.equal(given, before), "the metric wrote into the logits that it was given")
        apart = parts[1] + parts[2]
        same = abs(parts[0] - apart) <= 1e-4 * max(1.0, abs(apart))
        require(same, f"12 tokens sum to {parts[0]:.6g} together and to {apart:.6g} in two parts")

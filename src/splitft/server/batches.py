"""Batches of several clients that the server computes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_MOST_PADDING = 1.1  # times the tokens that the clients' batches take one by one


def plan_batches(lengths: Mapping[str, Sequence[int]], most_tokens: int) -> list[list[str]]:
    """Return the clients in batches of at most `most_tokens` tokens, padding counted.

    Clients with rows of like length go together, since a batch is as wide as its longest row: no batch pads
    more than a tenth beyond what its clients pad by themselves. A client that is larger than the limit is
    alone. Ties go in the order given.

    Args:
        lengths: Of each client's rows.
    """
    widest_first = sorted(lengths, key=lambda client: -max(lengths[client]))
    batches: list[list[str]] = []
    rows = alone = 0
    for client in widest_first:
        own = len(lengths[client])
        if batches:
            width = max(lengths[batches[-1][0]])
            together = (rows + own) * width
            if together <= min(most_tokens, _MOST_PADDING * (alone + own * max(lengths[client]))):
                batches[-1].append(client)
                rows, alone = rows + own, alone + own * max(lengths[client])
                continue
        batches.append([client])
        rows, alone = own, own * max(lengths[client])
    return batches

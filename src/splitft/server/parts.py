"""In how many parts each batch is sent, so that client, link and server work side by side. (ours)"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from splitft.job import Job

PART_SECONDS = 0.005  # that a part costs by itself, wherever it is computed
_MOST = 64


def step_time(parts: int, client: float, link: float, server: float, clients: int) -> float:
    """Return about how many seconds a step takes with batches in so many parts.

    client: seconds that the client computes in a step; link: that its messages are on their way; server: that
    the server computes for it, one of so many `clients`. The first part goes its whole way, the others follow
    as fast as the slowest of client, link (each direction by itself) and server lets them.
    """
    slowest = max(client, link / 2, clients * server)
    return (client + link + server) / parts + (parts - 1) / parts * slowest + parts * PART_SECONDS


def best_parts(most: int, client: float, link: float, server: float, clients: int) -> int:
    """Return the number of parts, at most `most`, with the shortest step; of powers of two, and `most`."""
    choices = {2**i for i in range(7) if 2**i <= min(most, _MOST)} | {max(1, min(most, _MOST))}
    return min(sorted(choices), key=lambda parts: step_time(parts, client, link, server, clients))


def micro_batches(
    job: Job, rows: Callable[[str], int], found: Mapping[str, int], names: Callable[[], list[str]]
) -> Callable[[str], int]:
    """Return what tells in how many parts a client sends each batch.

    rows: training rows of each client; no part is empty. found: with `micro_batches: auto` what was found for
    each client, 1 where nothing was yet. names: those who take the same number, since they share a trunk.
    """

    def parts(client: str) -> int:
        stated = job.micro_batches
        wanted = stated if isinstance(stated, int) else found.get(client, 1) if stated == "auto" else 1
        return max(1, min(wanted, job.per_device_train_batch_size, rows(client)))

    def of(client: str) -> int:
        if not job.splits_model:
            return 1
        return min(map(parts, names())) if job.server_adapter == "shared" else parts(client)

    return of

"""The number of parts of each batch, so that client, link and server work side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from splitft.job.settings import TrainingSettings

PART_SECONDS = 0.005  # that a part costs by itself, wherever it is computed
_MOST = 64


def step_time(parts: int, client: float, link: float, server: float, clients: int) -> float:
    """Return an estimate of the seconds of a step with batches in `parts` parts.

    The first part goes its whole way, the others follow as fast as the slowest of client, link (each
    direction by itself) and server lets them.

    Args:
        client, link, server: Seconds of a step that the client computes, that its messages are on their way,
            and that the server computes for it.
        clients: Clients of the server.
    """
    slowest = max(client, link / 2, clients * server)
    return (client + link + server) / parts + (parts - 1) / parts * slowest + parts * PART_SECONDS


def best_parts(most: int, client: float, link: float, server: float, clients: int) -> int:
    """Return the number of parts, at most `most`, with the shortest step; of powers of two, and `most`."""
    choices = {2**i for i in range(7) if 2**i <= min(most, _MOST)} | {max(1, min(most, _MOST))}
    return min(sorted(choices), key=lambda parts: step_time(parts, client, link, server, clients))


def micro_batches(
    settings: TrainingSettings,
    rows: Callable[[str], int],
    found: Mapping[str, int],
    names: Callable[[], list[str]],
) -> Callable[[str], int]:
    """Return a function from a client's name to the parts of each of its batches.

    Args:
        rows: Training rows of each client; no part is empty.
        found: With `micro_batches: auto` the number found for each client, 1 where there is none yet.
        names: Clients with the same number, where they share a trunk.
    """

    def parts(client: str) -> int:
        stated = settings.micro_batches
        wanted = stated if isinstance(stated, int) else found.get(client, 1) if stated == "auto" else 1
        return max(1, min(wanted, settings.per_device_train_batch_size, rows(client)))

    def of(client: str) -> int:
        if not settings.splits_model:
            return 1
        return min(map(parts, names())) if settings.server_adapter == "shared" else parts(client)

    return of

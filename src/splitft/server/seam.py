"""The seam of the server: messages between its coordinator and its trunk worker.

The coordinator has the global adapter, the cuts and the averages; activations never come to it. The trunk
worker trains and evaluates trunks; clients' adapters and averages under way never come to it. Besides these
messages, those of clients and the tensors of gradient norms cross. All hold numbers, texts and tensors only,
and neither side changes a tensor of the other's: a trunk worker may be in another process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from splitft.common.text import error_line
from splitft.errors import SplitFTError
from splitft.job.settings import SplitSettings

SHARED = ""  # key of the one trunk that all clients train with `server_adapter: shared`


@dataclass(frozen=True)
class GlobalBlocks:
    """Coordinator to worker: the global adapter of all blocks in the trunks, to train from and to evaluate.

    Where the server evaluates by itself: of all blocks of the model, to evaluate.

    values: the tensors of every block in the layout's order (`blocks.tensors_of`).
    """

    blocks: tuple[int, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class TrunkLoad:
    """Coordinator to worker: what a trunk holds from now on, and the clients that it is for.

    rebased, bases: changes of basis since the trunk had a block last (`basis.stack_bases`).
    """

    clients: tuple[str, ...]
    cuts: tuple[int, ...]  # of each client
    micro_batches: tuple[int, ...]  # parts of each client's batches
    blocks: tuple[int, ...]  # of the trunk
    ranks: tuple[int, ...]  # effective, of each block
    leaving: tuple[int, ...]  # blocks whose optimizer state goes to clients with higher cuts
    rebased: tuple[int, ...]
    bases: tuple[Tensor, ...]


@dataclass(frozen=True)
class TrunkMoments:
    """Either way: optimizer state of blocks that move between a trunk and clients (`moments.pack_blocks`)."""

    blocks: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    values: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class TrunkUpdate:
    """Worker to coordinator: what a trunk trained in a round, and the token rows that it saw of each client.

    values: as in `GlobalBlocks`.
    """

    clients: tuple[str, ...]
    rows: tuple[int, ...]
    blocks: tuple[int, ...]
    values: tuple[Tensor, ...]


class ClientError(ValueError):
    """What these clients sent could not be computed; the cause is the error that it raised."""

    def __init__(self, clients: Iterable[str], cause: Exception) -> None:
        super().__init__(str(cause) or error_line(cause))
        self.clients = tuple(clients)
        self.__cause__ = cause


@contextmanager
def on_behalf_of(*clients: str) -> Iterator[None]:
    """Raise ClientError where computing for these clients fails; errors of the job itself pass."""
    try:
        yield
    except (ClientError, SplitFTError):
        raise
    except Exception as error:
        raise ClientError(clients, error) from error


def trunk_key(client: str, split: SplitSettings) -> str:
    """Return the key of the trunk that a client trains: one trunk a client, or one for all."""
    return SHARED if split.server_adapter == "shared" else client


def by_trunk(clients: Iterable[str], split: SplitSettings) -> dict[str, list[str]]:
    """Return {key of a trunk: those of the clients that train it}."""
    found: dict[str, list[str]] = defaultdict(list)
    for client in clients:
        found[trunk_key(client, split)].append(client)
    return found

"""A client's part in masked sums: answers a server's requests with the update that it trained."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import torch

from splitft.client.client import ClientRole
from splitft.common.failpoints import failpoint
from splitft.common.state import State
from splitft.engines.network.desk import digest_of
from splitft.engines.network.sum_answers import MOST_SEALED_BYTES, roll_of
from splitft.engines.network.sum_messages import (
    KeysAsked,
    KeysStated,
    MaskAsked,
    RevealAsked,
    SharesAsked,
    SharesRevealed,
    SharesSealed,
    SumAnswer,
    SumRequest,
    SurvivorsAsked,
    SurvivorsSigned,
    pairs_of,
    to_bytes,
    to_tensor,
)
from splitft.engines.network.sum_record import SumRecord
from splitft.engines.network.transport.signing import MOST_SIGNATURE_BYTES
from splitft.job.settings import TrainingSettings
from splitft.lora.ranks import held_blocks
from splitft.lora.summed import numbers_of, share_of
from splitft.wire.messages import AdapterUp
from splitft.wire.secagg.fixed_point import FixedPoint
from splitft.wire.secagg.member import SumMember
from splitft.wire.secagg.roll import RoundKeys, Signatures, context_of


class NoSums:
    """A client's part in sums of a job that has none."""

    masks = False

    def trained(self, round_: int, tokens: int) -> None:
        """Note that the local steps of a round are done, on so many tokens: the client's weight."""

    def forget(self) -> None:
        """Note that there is nothing to sum: another state was restored, or other adapters came."""

    def state(self) -> State:
        """Return what outlasts a process until the sum."""
        return {}

    def answer(self, request: SumRequest, client: ClientRole) -> SumAnswer | AdapterUp:
        """Raise ValueError: the job has no secure aggregation."""
        raise ValueError("the job has no secure aggregation")


@dataclass(eq=False)
class ClientSums(NoSums):
    """The sums of one client.

    Attributes:
        name: The client.
        names: All clients of the job: others in a sum are refused.
        least: Fewest clients of a sum, by the job's `network.min_clients` and the site's policy.
        signatures: Returns, for one sum, the client's signatures and the check of the others'.
        record: Of the sums that its updates have entered.
    """

    name: str
    settings: TrainingSettings
    names: Collection[str]
    least: int
    signatures: Callable[[], Signatures]
    record: SumRecord
    masks = True
    # The round whose steps are done, and its tokens; round and attempt of the sum under way.
    _trained: tuple[int, int] = field(default=(0, 0), init=False)
    _of: tuple[int, int] = field(default=(0, 0), init=False)
    _member: SumMember | None = field(default=None, init=False)
    _update: str = field(default="", init=False)  # SHA-256 of what enters it
    _survivors: tuple[str, ...] = field(default=(), init=False)

    def trained(self, round_: int, tokens: int) -> None:
        """Note that the local steps of a round are done, on so many tokens: the client's weight."""
        self._trained, self._member = (round_, tokens), None

    def forget(self) -> None:
        """Note that there is nothing to sum: another state was restored, or other adapters came."""
        self._trained, self._member = (0, 0), None

    def state(self) -> State:
        """Return what outlasts a process until the sum: the client's weight."""
        return {"tokens": self._trained[1]}

    def answer(self, request: SumRequest, client: ClientRole) -> SumAnswer | AdapterUp:
        """Return the answer to a request.

        Raises ValueError where it is not the next one, or the server's view cannot be an honest one's;
        DivergedError where a value has changed by more than the range of a sum, OutputError where the record
        cannot be written.
        """
        failpoint(f"sum.{type(request).__name__}")
        if isinstance(request, KeysAsked):
            return self._keys(request, client)
        if self._member is None or (request.round, request.attempt) != self._of:
            of = f"attempt {request.attempt} at the sum of round {request.round}"
            raise ValueError(f"{of} is not under way")
        member = self._member
        match request:
            case SharesAsked():
                sealed = member.seal(self._roll(request))
                return SharesSealed(*self._of, tuple(sealed), tuple(map(to_tensor, sealed.values())))
            case MaskAsked():
                return self._masked(request, member, client)
            case SurvivorsAsked():
                signature = member.sign(request.clients)
                bound = self.record.find(self._update)
                if bound and {*bound} != {*request.clients}:
                    raise ValueError(
                        f"this update was summed with those of {', '.join(bound)}: a sum over other clients "
                        "would tell one of them from the difference"
                    )
                self._survivors = request.clients
                return SurvivorsSigned(*self._of, to_tensor(signature))
            case RevealAsked():
                signed = pairs_of(request.clients, request.signatures, MOST_SIGNATURE_BYTES)
                shares = member.reveal(signed)
                self.record.keep(self._update, self._survivors)
                self._member = None
                return SharesRevealed(*self._of, tuple(shares), tuple(map(to_tensor, shares.values())))

    def _keys(self, request: KeysAsked, client: ClientRole) -> KeysStated:
        """Begin a sum, with new keys; one that was under way is over."""
        round_, tokens = self._trained
        if request.round != round_ or not round_:
            raise ValueError(f"a sum of round {request.round}, whose steps are not done")
        self._of, self._survivors = (request.round, request.attempt), ()
        update = client.finish(round_)
        self._update = to_bytes(digest_of(update.blocks, update.values), 32).hex()
        threshold = self.settings.secure_aggregation_threshold
        context = context_of(*self._of)
        self._member = SumMember(self.name, context, tokens, threshold, self.least, self.signatures())
        keys = self._member.keys()
        return KeysStated(
            *self._of,
            to_tensor(keys.mask_key),
            to_tensor(keys.seal_key),
            to_tensor(keys.commitment),
            keys.weight,
            to_tensor(keys.certificate),
            to_tensor(keys.signature),
            self.record.find(self._update),
        )

    def _roll(self, request: SharesAsked) -> dict[str, RoundKeys]:
        """Return the keys that a server states. Raises ValueError where they are not of the job's clients."""
        if foreign := [name for name in request.clients if name not in self.names]:
            raise ValueError(f"a sum with {foreign[0][:80]!r}, who is no client of the job")
        return roll_of(request)

    def _masked(self, request: MaskAsked, member: SumMember, client: ClientRole) -> AdapterUp:
        """Return the update as numbers of the sum, masked."""
        sealed = pairs_of(request.clients, request.sealed, MOST_SEALED_BYTES)
        update, job = client.finish(request.round), self.settings
        weights = {name: keys.weight for name, keys in member.roll.items()}
        state = client.state()
        numbers = numbers_of(
            update,
            state["adapter"],
            held_blocks(job, client.model.num_blocks, state["cut"]).ranks(job),
            freeze_a=job.freeze_a,
            points=FixedPoint(job.secure_aggregation_range, len(weights)),
            share=share_of(weights, [self.name]),
        )
        total = torch.cat(numbers)
        member.mask(total.numpy().view(np.uint32), sealed)
        return AdapterUp(request.round, update.blocks, torch.split(total, [len(one) for one in numbers]))

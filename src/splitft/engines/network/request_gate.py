"""The client's gate: a server's requests are held to the agreed job and the site's policy first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitft.engines.network import control
from splitft.engines.network.sum_messages import SumRequest
from splitft.errors import PolicyError
from splitft.job.settings import CostSettings
from splitft.job.site_policy import SitePolicy
from splitft.lora.basis import unstack_bases
from splitft.lora.blocks import Adapter, Layout, rank_of, trained_specs, unflatten
from splitft.lora.moments import unpack_blocks
from splitft.lora.ranks import held_blocks
from splitft.lora.reach import check_moments
from splitft.wire.messages import AdapterDown

MEGABYTE = 10**6
LARGEST = 1e6  # root mean square of values that come down, as of those that go up
_ON_A_STATE = (
    AdapterDown
    | control.Train
    | control.Skip
    | control.Evaluate
    | control.Save
    | control.AdapterCopy
    | SumRequest
)


@dataclass(eq=False)
class RequestGate:
    """Checks the requests of one server.

    Attributes:
        cuts: The cuts that the job lets a server choose.
        keeps_adapter: Whether the job hands out the adapter at its end.
    """

    settings: CostSettings
    policy: SitePolicy
    num_blocks: int
    cuts: Collection[int]
    eval_rows: int
    keeps_adapter: bool = False
    _times: Counter[tuple[str, int]] = field(default_factory=Counter, init=False)  # in this process
    _evaluated: set[int] = field(default_factory=set, init=False)  # rounds, in this session
    _handed_out: int = field(default=-1, init=False)  # the round of the last hand-out
    _sent: int = field(default=0, init=False)  # bytes in this round
    _restored: bool = field(default=False, init=False)  # the server has said in this session from which state

    def start_session(self) -> None:
        """Note that the server may ask again for what was under way."""
        self._evaluated.clear()
        self._handed_out, self._restored = -1, False

    def check(self, request: control.Said) -> None:
        """Check a request.

        Raises PolicyError, which names it, where it is more than was agreed to, and ValueError where it comes
        before the state to start from.
        """
        if isinstance(request, control.Load):
            self._restored, self._handed_out = True, -1
            self._evaluated = {round_ for round_ in self._evaluated if round_ < request.done}
        elif isinstance(request, _ON_A_STATE) and not self._restored:
            raise ValueError("it came before the state to start from")
        match request:
            case AdapterDown():
                self._hand_out(request)
            case control.Train():
                self._round(request.round, 1)
                if self._handed_out not in (-1, request.round):
                    raise _refused(f"to train round {request.round} after the adapters of {self._handed_out}")
                if not 1 <= request.attempt <= self.policy.max_repeats:
                    raise _refused(f"attempt {request.attempt} at a round: max_repeats")
                self._again("train", request.round)
            case control.Evaluate():
                self._evaluation(request)
            case _ if isinstance(request, SumRequest):
                self._round(request.round, 1)
                self._again("sum", request.round, 5)
            case control.AdapterCopy() if not self.keeps_adapter:
                raise _refused("the adapter to be kept here, which network.hand_out_adapter does not say")
            case control.AdapterCopy():
                self._again("keep", self.settings.rounds)
            case control.Load() | control.Save():
                if request.done > self.settings.rounds + 1:
                    raise _refused(f"a state after {request.done} of {self.settings.rounds} rounds")
            case _:
                pass

    def check_values(self, message: AdapterDown, layout: Layout) -> None:
        """Check the tensors of a hand-out before any is used. layout: of the blocks that the client holds.

        Raises PolicyError where a rank is higher than the job's or values are absurd, and ValueError where
        they do not fit the model.
        """
        job = self.settings
        held = set(held_blocks(job, self.num_blocks, message.cut).on_client(layout))
        blocks = message.blocks
        if list(blocks) != sorted(set(blocks)) or not set(blocks) <= held or not set(message.frozen) <= held:
            frozen = f", with A frozen in {list(message.frozen)[:9]}" if message.frozen else ""
            raise ValueError(
                f"adapters of blocks {list(blocks)[:9]}{frozen}, where the client holds {sorted(held)}"
            )
        if len(message.values) != len(blocks) or len(message.bases) != len(message.rebased):
            counts = f"{len(message.values)} adapters and {len(message.bases)} changes of basis"
            raise ValueError(f"{counts} for {len(blocks)} and {len(message.rebased)} blocks")
        for block, values in zip(blocks, message.values, strict=True):
            _vector(values)
            adapter = unflatten(values, trained_specs(layout[block], block in message.frozen))
            if (rank := rank_of(adapter)) > job.lora_r:
                raise _refused(f"adapters of rank {rank} in block {block}, lora_r is {job.lora_r}")
        unstack_bases(message.rebased, message.bases, layout)
        for values in (*message.bases, *message.moments):
            if values.dtype is not torch.float32:
                raise ValueError(f"values of {values.dtype}")
            _finite(values)
        if any(len(base[0]) > job.lora_r for base in message.bases if len(base)):
            raise _refused(f"a change of basis of rank above {job.lora_r}, which is lora_r")
        if message.rebased and max(Counter(message.rebased).values()) > job.rounds + 1:
            raise _refused(f"{len(message.rebased)} changes of basis in {job.rounds} rounds")
        moved = unpack_blocks(message.moved, message.moved_steps, message.moments, layout, job.freeze_a)
        if len(moved) != len(message.moved) or not set(moved) <= held:
            raise ValueError(f"optimizer state of blocks {list(message.moved)[:9]}")
        for one in moved.values():
            check_moments(job, one)

    def checked_copy(self, message: control.AdapterCopy, layout: Layout) -> Adapter:
        """Return the adapter that a server hands out to be kept. layout: of all blocks.

        Raises PolicyError where a rank is higher than the job's or values are absurd, and ValueError where
        they do not fit the model.
        """
        blocks = message.blocks
        if list(blocks) != sorted(layout) or len(message.values) != len(blocks):
            raise ValueError(f"{len(message.values)} adapters of blocks {list(blocks)[:9]}")
        adapter = {}
        for block, values in zip(blocks, message.values, strict=True):
            _vector(values)
            adapter[block] = unflatten(values, layout[block])
            if (rank := rank_of(adapter[block])) > (most := self.settings.lora_r):
                raise _refused(f"an adapter of rank {rank} to be kept in block {block}, lora_r is {most}")
        return adapter

    def count(self, payload: int) -> None:
        """Count bytes that go up. Raises PolicyError beyond what a round may send."""
        self._sent += payload
        most = self.policy.max_mb_per_round
        if most is not None and self._sent > most * MEGABYTE:
            raise _refused(f"more than {most:g} MB in one round: max_mb_per_round")

    def _hand_out(self, message: AdapterDown) -> None:
        self._round(message.round, 0)
        if message.round != self._handed_out:
            self._handed_out, self._sent = message.round, 0
        job, policy = self.settings, self.policy
        if message.cut not in self.cuts:
            raise _refused(f"a cut of {message.cut} blocks, the job has {_listed(self.cuts)}")
        if job.splits_model and not policy.min_cut <= message.cut <= (policy.max_cut or message.cut):
            bounds = f"min_cut {policy.min_cut}, max_cut {policy.max_cut}"
            raise _refused(f"a cut of {message.cut} blocks: {bounds}")
        parts = job.per_device_train_batch_size if job.micro_batches == "auto" else job.micro_batches
        most = 1 if parts == "off" else int(parts)
        if not 1 <= message.micro_batches <= most:
            raise _refused(f"batches in {message.micro_batches} parts, the job has at most {most}")
        self._again("hand out", message.round, 4)

    def _evaluation(self, request: control.Evaluate) -> None:
        job = self.settings
        self._round(request.round, 0)
        if request.round % job.eval_every and request.round != job.rounds:
            raise _refused(f"an evaluation after round {request.round}, eval_every is {job.eval_every}")
        if request.round in self._evaluated:
            raise _refused(f"a second evaluation after round {request.round}")
        self._evaluated.add(request.round)
        self._again("evaluate", request.round)
        if request.sample > self.eval_rows or request.have > self.eval_rows:
            raise _refused(f"a sample of {request.sample} of {self.eval_rows} held-out rows")

    def _round(self, round_: int, first: int) -> None:
        if not max(first, self._handed_out) <= round_ <= self.settings.rounds:
            raise _refused(f"round {round_} after round {self._handed_out} of {self.settings.rounds}")

    def _again(self, what: str, round_: int, times: int = 1) -> None:
        """Count how often one thing is asked in one round. times: how often in an undisturbed round."""
        self._times[what, round_] += 1
        if self._times[what, round_] > times * self.policy.max_repeats:
            raise _refused(f"to {what} in round {round_} once more: max_repeats {self.policy.max_repeats}")


def _refused(what: str) -> PolicyError:
    return PolicyError(f"the server asked for {what}; nothing of it was done")


def _listed(cuts: Collection[int]) -> str:
    return ", ".join(map(str, sorted(cuts)[:9]))


def _vector(values: Tensor) -> None:
    if values.dtype is not torch.float32 or values.ndim != 1:
        raise ValueError(f"adapter values of {values.dtype}, {values.ndim} dimensions")
    _finite(values)


def _finite(values: Tensor) -> None:
    """Raise ValueError where values are not finite, or far too large."""
    norm = float(torch.linalg.vector_norm(values.flatten(), dtype=torch.float32)) if values.numel() else 0.0
    if not norm <= LARGEST * max(1, values.numel()) ** 0.5:
        raise ValueError("values are not finite, or far too large")

"""The stages of one attempt at a masked sum, and the clients with which it goes on.

A client that is lost before its masked update came is left out, where enough others are there; after that its
update is in the sum. Where a client is started again meanwhile, or too few are left to unmask, another
attempt is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.members import Members
from splitft.engines.network.round_steps import ShortRoundError
from splitft.engines.network.sum_answers import keys_of, roll_message, shares_of
from splitft.engines.network.sum_messages import (
    KeysAsked,
    KeysStated,
    MaskAsked,
    RevealAsked,
    SharesRevealed,
    SharesSealed,
    SurvivorsAsked,
    SurvivorsSigned,
    to_tensor,
)
from splitft.engines.network.sum_phase import Missing, SumPhase
from splitft.errors import NetworkError
from splitft.wire.messages import AdapterUp
from splitft.wire.secagg.roll import LEAST, RoundKeys, context_of, threshold_of
from splitft.wire.secagg.unmask import SharesError, Unmasking


class BeginAgainError(Exception):
    """The sum under way cannot be completed: another attempt is to be made, with new keys."""


class UnfitSharesError(BeginAgainError):
    """Shares that came do not fit: a client lies, and which one does not show."""


@dataclass(frozen=True)
class MaskedSum:
    """What is needed to unmask a sum.

    Attributes:
        updates: {client: its masked update}; with an aggregator digests, which has the updates.
        secrets: As `Unmasking.secrets` returns them.
    """

    updates: Mapping[str, AdapterUp]
    unmasking: Unmasking
    secrets: Mapping[str, bytes]


@dataclass(eq=False)
class SumStages:
    """One attempt at the sum of a round.

    Attributes:
        phase: Of this attempt.
        clients: All clients that were to be in the sum.
        dropped: Those that it goes on without; grows.
        stated: The threshold that the job states, None for its default.
        link: Way to an aggregator, which gets the masked updates. None: they come here.
        goes_back: A round may begin anew, from the last checkpoint.
    """

    members: Members
    phase: SumPhase
    clients: Sequence[str]
    dropped: list[str]
    stated: int | None
    link: AggregatorLink | None
    goes_back: bool
    _all: bool = field(default=False, init=False)  # nobody may be left out: an earlier sum had them all
    _together: bool = field(default=False, init=False)  # it is of all of them, or begins again
    _threshold: int = field(default=0, init=False)  # answers that are needed once masked updates have come

    def __post_init__(self) -> None:
        self._deadline = self.members.roster.deadline()

    def run(self) -> MaskedSum:
        """Have the clients mask their updates, and reveal together what unmasks their sum.

        Raises:
            BeginAgainError: Another attempt is to be made.
            ShortRoundError: Too few clients of the round are left, and enough others are there.
            NetworkError: No attempt can succeed.
        """
        phase, of = self.phase, (self.phase.round, self.phase.attempt)

        # Keys of all clients.
        names = [name for name in self.clients if name not in self.dropped]
        stated = phase.ask(KeysStated, dict.fromkeys(names, KeysAsked(*of)), self._without)
        roll = self._kept(stated)
        threshold = self._threshold = threshold_of(len(roll), self.stated)

        # Shares of each client's secrets, sealed for each other one.
        asked = roll_message(*of, roll)
        sealed = phase.ask(SharesSealed, dict.fromkeys(roll, asked), self._without)
        self._check_count(len(sealed), "shared their secrets")
        given = {name: shares_of(answer) for name, answer in sealed.items()}
        for name, own in given.items():
            if own.keys() != roll.keys() - {name}:
                self.members.expel(name, "SharesSealed: it is not for the other clients of the sum")
                raise BeginAgainError(f"{name} is expelled")

        # Masked updates.
        requests = {
            name: MaskAsked(
                *of,
                tuple(other for other in given if other != name),
                tuple(to_tensor(given[other][name]) for other in given if other != name),
            )
            for name in given
        }
        updates = phase.ask(AdapterUp, requests, self._without, self._not_handed_in)
        self._check_count(len(updates), "masked their updates")

        # Signatures of who is left, then one share of each client.
        survivors = tuple(updates)
        signed = phase.ask(
            SurvivorsSigned, dict.fromkeys(survivors, SurvivorsAsked(*of, survivors)), self._enough
        )
        reveal = RevealAsked(*of, tuple(signed), tuple(answer.signature for answer in signed.values()))
        revealed = phase.ask(SharesRevealed, dict.fromkeys(signed, reveal), self._enough)
        unmasking = Unmasking(context_of(*of), roll, threshold, tuple(given), survivors)
        try:
            secrets = unmasking.secrets({name: shares_of(answer) for name, answer in revealed.items()})
        except SharesError as error:
            raise UnfitSharesError(str(error)) from None
        return MaskedSum(updates, unmasking, secrets)

    def _kept(self, stated: Mapping[str, KeysStated]) -> dict[str, RoundKeys]:
        """Return the keys of those that are in the sum: after a restart of the server, as in the one before.

        Others are dropped. Raises NetworkError where too few are left.
        """
        bounds = Counter(frozenset(answer.bound) for answer in stated.values() if answer.bound)
        kept = [name for name, answer in stated.items() if not answer.bound]
        for wanted, count in bounds.most_common(1):
            agree = all(name in stated and {*stated[name].bound} <= wanted for name in wanted)
            self._together = agree and len(wanted) >= self._needed()
            # A minority has unmasked nothing, and may lie: the others do not wait for a lost one by its word.
            self._all = self._together and 2 * count > len(wanted)
            if self._together:
                kept = [name for name in stated if name in wanted]
            elif len(kept) < self._needed():
                raise NetworkError(
                    f"round {self.phase.round} was summed before, of {', '.join(sorted(wanted))}, and these "
                    "clients enter no other sum of it: from two sums an adapter could be told; start all of "
                    "them, and the server with --resume"
                )
        for name in stated:
            if name not in kept:
                self._drop(name)
        return {name: keys_of(stated[name]) for name in kept}

    def _without(self, missing: Missing) -> bool:
        """Whether a stage before the masked updates is complete without these clients.

        Clients that are expelled, given up or late are dropped, where enough others are left.
        """
        roster, lost, late = self.members.roster, list[str](), self.members.roster.now() > self._deadline
        for name in missing:
            if roster[name].expelled:
                self._leave_out(name)
            elif self.phase.restarted(name):
                raise BeginAgainError(f"{name} was started again")
            elif late or roster.long_away(name):
                if not self._all and self._left(without=name) >= self._needed():
                    self._leave_out(name)
                elif not roster[name].present:
                    lost.append(name)
        self._check_left(lost)
        return all(name in self.dropped for name in missing)

    def _enough(self, missing: Missing) -> bool:
        """Whether a stage after the masked updates is complete without these clients.

        Raises BeginAgainError where too few can answer.
        """
        roster, asked = self.members.roster, self.phase.asked
        late = roster.now() > self._deadline
        gone = [name for name in missing if roster[name].expelled or roster.long_away(name)]
        never = [name for name in missing if name in gone or self.phase.restarted(name)]
        if len(asked) - len(never) < self._threshold:
            raise BeginAgainError(
                f"{', '.join(never)} cannot unmask any more, and {self._threshold} are needed"
            )
        waited_for = [n for n in missing if n not in never and roster[n].present and not late]
        return not waited_for and len(asked) - len(missing) >= self._threshold

    def _not_handed_in(self, name: str, update: AdapterUp) -> bool:
        """Whether the aggregator lacks a masked update that its client states."""
        if self.link is None:
            return False
        self.link.take_in()
        try:
            return not self.link.handed_in(name, self.members.coordinator.holdings[name].held, update)
        except ValueError as error:
            self.members.expel(name, str(error))
            return True

    def _check_count(self, count: int, did: str) -> None:
        """Raise BeginAgainError where fewer clients than the threshold have done something."""
        if count < self._threshold:
            raise BeginAgainError(f"{count} clients {did}, and {self._threshold} are needed")

    def _check_left(self, lost: Sequence[str]) -> None:
        """Raise ShortRoundError where too few clients are left, NetworkError where no sum can be made."""
        roster, round_ = self.members.roster, self.phase.round
        can = [name for name in self.clients if name not in self.dropped and not roster[name].expelled]
        if len(can) < (fewest := max(LEAST, self.stated or 0)):
            out = [f"{n} is expelled: {roster[n].expelled}" for n in self.clients if roster[n].expelled]
            raise NetworkError(
                f"{len(can)} clients of round {round_} are left, and a sum is of {fewest} at least "
                f"({'; '.join(out) or 'others are away'}): start the server with --resume, once more come"
            )
        if (lost or len(can) < self._needed()) and roster.enough_present and self.goes_back:
            without = f" without {', '.join(lost)}" if lost else ""
            raise ShortRoundError(f"too few clients of round {round_} are left{without}")

    def _left(self, without: str) -> int:
        return len([name for name in self.clients if name != without and name not in self.dropped])

    def _needed(self) -> int:
        """Return the number of clients with which a sum goes on."""
        roster = self.members.roster
        stated = roster.config.min_clients or sum(not roster[name].expelled for name in self.clients)
        return max(LEAST, self.stated or 0, min(stated, len(self.clients)))

    def _leave_out(self, name: str) -> None:
        """Go on without a client; raise BeginAgainError where some enter a sum of all alone."""
        if self._together:
            raise BeginAgainError(f"the sum was to be of all, and {name} is not there")
        self._drop(name)

    def _drop(self, name: str) -> None:
        """Go on without a client, as if it had not been in the round."""
        if name in self.dropped:
            return
        self.dropped.append(name)
        self.members.worker.rewind([name])
        if not self.members.roster[name].expelled:
            self.members.take_back([name])
            self.members.skip(name)
        self.members.notice(f"the round goes on without {name}")

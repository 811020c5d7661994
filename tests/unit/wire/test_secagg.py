"""Promises of the masked sum: exact, whoever is lost in whatever phase; one client's part looks random."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.wire.secagg.fixed_point import FixedPoint, RangeError
from splitft.wire.secagg.masks import Ring, add_mask
from splitft.wire.secagg.member import SumMember
from splitft.wire.secagg.roll import RoundKeys, Unsigned, context_of, threshold_of
from splitft.wire.secagg.shamir import PRIME, SHARE_BYTES, join, split
from splitft.wire.secagg.unmask import SharesError, Unmasking

SIZE = 300
FEW = settings(max_examples=25, deadline=None)
SUM = context_of(3, 1)


class TooFewError(Exception):
    """A phase has fewer clients than the threshold."""


def numbers(names: Collection[str], seed: int = 0, size: int = SIZE) -> dict[str, Ring]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 1 << 32, size, dtype=np.uint32) for name in names}


def plain_sum(values: Mapping[str, Ring], names: Collection[str]) -> Ring:
    return np.sum([values[name] for name in names], axis=0, dtype=np.uint32)


class Sum:
    """The phases of a sum, with clients lost before they answer in each of them."""

    def __init__(self, names: Collection[str], stated: int | None = None, least: int = 3) -> None:
        self.members = {name: SumMember(name, SUM, 5, stated, least, Unsigned()) for name in names}
        self.threshold = threshold_of(len(names), stated)
        self.masked: dict[str, Ring] = {}
        self.revealed: dict[str, dict[str, bytes]] = {}

    def run(self, values: Mapping[str, Ring], lost: Mapping[str, Collection[str]]) -> tuple[list[str], Ring]:
        """Return the clients in the sum, and the sum. lost: clients by phase, of PHASES."""

        def there(names: Collection[str], phase: str) -> list[str]:
            left = [name for name in names if name not in lost.get(phase, ())]
            if phase not in ("keys", "shares") and len(left) < self.threshold:
                raise TooFewError(phase)
            return left

        names = there(self.members, "keys")
        self.threshold = threshold_of(len(names), None)
        self.roll = {name: self.members[name].keys() for name in names}
        sealed = {name: self.members[name].seal(self.roll) for name in there(names, "shares")}
        if len(sealed) < self.threshold:
            raise TooFewError("shares")
        for name in there(sealed, "masked"):
            total = values[name].copy()
            self.members[name].mask(
                total, {other: own[name] for other, own in sealed.items() if other != name}
            )
            self.masked[name] = total
        survivors = list(self.masked)
        signed = {name: self.members[name].sign(survivors) for name in there(survivors, "signed")}
        self.revealed = {name: self.members[name].reveal(signed) for name in there(signed, "revealed")}
        self.unmasking = Unmasking(SUM, self.roll, self.threshold, list(sealed), survivors)
        total = plain_sum(self.masked, survivors)
        self.unmasking.remove(total, self.unmasking.secrets(self.revealed))
        return survivors, total


NAMES = ["anna", "bert", "cleo", "dora", "emil"]
PHASES = ("keys", "shares", "masked", "signed", "revealed")


@FEW
@given(st.integers(3, 9), st.integers(0, 1000), st.integers(1, 200_000))
def test_the_sum_is_exact(count: int, seed: int, size: int) -> None:
    names = [f"client-{number}" for number in range(count)]
    values = numbers(names, seed, size % (3 if seed % 5 else 200_000) + 1)
    survivors, total = Sum(names).run(values, {})
    assert survivors == names and np.array_equal(total, plain_sum(values, names))


@FEW
@given(st.integers(3, 8).flatmap(lambda n: st.tuples(st.just(n), st.dictionaries(
    st.sampled_from(PHASES), st.sets(st.integers(0, n - 1), max_size=2), max_size=3
))))  # fmt: skip
def test_whoever_is_lost_the_sum_is_that_of_those_left(
    case: tuple[int, dict[str, set[int]]],
) -> None:
    """Any clients lost in any phases: the sum of those that are left, or fewer than the threshold are."""
    count, places = case
    names = [f"client-{number}" for number in range(count)]
    lost = {phase: {names[number] for number in some} for phase, some in places.items()}
    values = numbers(names)
    sum_ = Sum(names)
    stated = [name for name in names if name not in lost.get("keys", ())]
    if len(stated) < 3:
        everybody_seals = {phase: some for phase, some in lost.items() if phase != "shares"}
        with pytest.raises(ValueError, match="too few"):
            sum_.run(values, everybody_seals)
        return
    left = len(stated)
    gone = set[str]()
    short = False
    for phase in PHASES[1:]:
        gone |= lost.get(phase, set())
        left = len([name for name in stated if name not in gone])
        short = short or left < threshold_of(len(stated), None)
    if short:
        with pytest.raises(TooFewError):
            sum_.run(values, lost)
        return
    survivors, total = sum_.run(values, lost)
    before = lost.get("shares", set()) | lost.get("masked", set())
    assert survivors == [name for name in stated if name not in before]
    assert np.array_equal(total, plain_sum(values, survivors))


@pytest.mark.parametrize("phase", PHASES)
def test_one_of_five_is_lost_in_each_phase(phase: str) -> None:
    values = numbers(NAMES)
    survivors, total = Sum(NAMES).run(values, {phase: ["cleo"]})
    assert ("cleo" in survivors) == (phase in ("signed", "revealed"))
    assert np.array_equal(total, plain_sum(values, survivors))


def test_each_masked_vector_alone_looks_uniform() -> None:
    """Bytes of masked zeros: chi-squared over 256 values, and no byte in common with those unmasked."""
    values = {name: np.zeros(1 << 16, np.uint32) for name in NAMES}
    sum_ = Sum(NAMES)
    sum_.run(values, {})
    for masked in sum_.masked.values():
        counts = np.bincount(masked.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < 400  # 255 degrees: above once in 10^7
        bits = np.unpackbits(masked.view(np.uint8)).mean()
        assert abs(bits - 0.5) < 0.002
    unmasked = np.bincount(values["anna"].view(np.uint8), minlength=256)
    assert ((unmasked - unmasked.sum() / 256) ** 2).sum() > 1e6, "the test can fail"


def test_a_sum_again_has_other_masks() -> None:
    values = numbers(NAMES)
    first, second = Sum(NAMES), Sum(NAMES)
    assert np.array_equal(first.run(values, {})[1], second.run(values, {})[1])
    for name in NAMES:
        assert np.mean(first.masked[name] == second.masked[name]) < 0.05


def test_nothing_is_answered_twice_under_the_keys_of_one_sum() -> None:
    sum_ = Sum(NAMES)
    values = numbers(NAMES)
    sum_.run(values, {})
    member = sum_.members["anna"]
    for again in (
        member.keys,
        lambda: member.seal(sum_.roll),
        lambda: member.mask(values["anna"], {}),
        lambda: member.sign(NAMES[:4]),
        lambda: member.reveal({}),
    ):
        with pytest.raises(ValueError, match="is next"):
            again()


def test_of_no_client_both_secrets_are_revealed() -> None:
    sum_ = Sum(NAMES)
    survivors, _ = sum_.run(numbers(NAMES), {"masked": ["emil"]})
    assert survivors == NAMES[:4]
    for holder, shares in sum_.revealed.items():
        assert set(shares) == set(NAMES), holder
    # Shares of emil give its mask key, those of the others their seeds, and never the other way round.
    for name in NAMES:
        points = {n: place for place, n in enumerate(sorted(NAMES), start=1)}
        secret = join({points[holder]: own[name] for holder, own in sum_.revealed.items()})
        member = sum_.members[name]
        key, seed = member._mask_key.private_bytes_raw(), member._seed
        assert secret == (key if name == "emil" else seed)


def test_a_server_that_tells_two_stories_gets_no_shares() -> None:
    """A client that is told other survivors signs another text: the others' signatures do not fit."""

    class Keyed(Unsigned):
        def sign(self, content: bytes) -> bytes:
            return content

        def check(self, name: str, certificate: bytes, signature: bytes, content: bytes) -> None:
            if signature != content:
                raise ValueError(f"the signature of {name} does not fit")

    members = {name: SumMember(name, SUM, 5, None, 3, Keyed()) for name in NAMES}
    roll = {name: member.keys() for name, member in members.items()}
    sealed = {name: member.seal(roll) for name, member in members.items()}
    for name, member in members.items():
        total = np.zeros(8, np.uint32)
        member.mask(total, {other: own[name] for other, own in sealed.items() if other != name})
    signed = {name: members[name].sign(NAMES if name < "dora" else NAMES[1:]) for name in NAMES[1:]}
    with pytest.raises(ValueError, match="does not fit"):
        members["bert"].reveal(signed)
    # Keys in the place of a client's own are found, too.
    fresh = {name: SumMember(name, SUM, 5, None, 3, Keyed()) for name in NAMES}
    roll = {name: member.keys() for name, member in fresh.items()}
    forged = RoundKeys(roll["bert"].mask_key, roll["bert"].seal_key, roll["bert"].commitment, 6, b"", b"x")
    with pytest.raises(ValueError, match="signature of bert"):
        fresh["anna"].seal(roll | {"bert": forged})


def test_two_members_are_refused_and_too_few_for_the_site() -> None:
    for names, least in ((NAMES[:2], 3), (NAMES[:4], 5)):
        members = {name: SumMember(name, SUM, 5, None, least, Unsigned()) for name in names}
        roll = {name: member.keys() for name, member in members.items()}
        with pytest.raises(ValueError, match="too few"):
            members["anna"].seal(roll)
    low = [SumMember(name, SUM, 5, 3, 3, Unsigned()) for name in (*NAMES, "fred")]
    roll = {name: member.keys() for name, member in zip((*NAMES, "fred"), low, strict=True)}
    with pytest.raises(ValueError, match="not above half"):
        low[0].seal(roll)


def test_keys_that_are_not_ones_own_or_stand_twice_are_refused() -> None:
    def fresh() -> tuple[SumMember, dict[str, RoundKeys]]:
        members = {name: SumMember(name, SUM, 5, None, 3, Unsigned()) for name in NAMES}
        return members["anna"], {name: member.keys() for name, member in members.items()}

    member, roll = fresh()
    with pytest.raises(ValueError, match="other keys of this client"):
        member.seal(roll | {"anna": roll["bert"]})
    member, roll = fresh()
    with pytest.raises(ValueError, match="stands twice"):
        member.seal(roll | {"cleo": roll["bert"]})
    member, roll = fresh()
    short = RoundKeys(b"\1" * 31, roll["bert"].seal_key, roll["bert"].commitment, 5)
    with pytest.raises(ValueError, match="another form"):
        member.seal(roll | {"bert": short})


def test_one_wrong_share_is_borne_and_more_are_told() -> None:
    sum_ = Sum(NAMES)
    values = numbers(NAMES)
    sum_.run(values, {})
    wrong = {name: dict(own) for name, own in sum_.revealed.items()}
    wrong["anna"]["bert"] = bytes(SHARE_BYTES)
    secrets = sum_.unmasking.secrets(wrong)
    assert secrets == sum_.unmasking.secrets(sum_.revealed)
    wrong["cleo"]["bert"] = bytes(SHARE_BYTES)
    with pytest.raises(SharesError, match="bert"):
        sum_.unmasking.secrets(wrong)
    few = dict(list(sum_.revealed.items())[:3])
    with pytest.raises(SharesError, match="3 shares"):
        sum_.unmasking.secrets(few)


@FEW
@given(st.binary(min_size=32, max_size=32), st.integers(1, 8), st.integers(0, 5), st.randoms())
def test_enough_shares_give_the_secret_and_fewer_do_not(
    secret: bytes, threshold: int, more: int, random: object
) -> None:
    points = list(range(1, threshold + more + 1))
    shares = split(secret, points, threshold)
    random.shuffle(points)  # type: ignore[attr-defined]
    assert join({point: shares[point] for point in points[:threshold]}) == secret
    assert join(shares) == secret
    if threshold > 1:
        few = {point: shares[point] for point in points[: threshold - 1]}
        with suppress(ValueError):  # a number beyond all secrets
            assert join(few) != secret


def test_shares_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="holders"):
        split(bytes(32), [1, 2], 3)
    for share in (b"\0", PRIME.to_bytes(SHARE_BYTES, "big")):
        with pytest.raises(ValueError, match="another form"):
            join({1: share})


def test_a_mask_is_taken_away_as_it_was_added() -> None:
    values = numbers(["anna"], size=200_001)["anna"]
    total = values.copy()
    add_mask(total, b"\7" * 32, 1)
    assert np.mean(total == values) < 0.01
    add_mask(total, b"\7" * 32, -1)
    assert np.array_equal(total, values)


@FEW
@given(st.integers(3, 200), st.floats(0.01, 100), st.integers(0, 100))
def test_the_mean_of_a_sum_is_within_its_error(count: int, most: float, seed: int) -> None:
    """The error is that of one rounding a client, and below 1e-5 of the range."""
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(count, 50, generator=generator, dtype=torch.float64) * 2 - 1) * most
    values[0] = most  # the ends of the range do not wrap
    values[:, 0] = -most
    weights = torch.randint(1, 1000, (count,), generator=generator)
    points = FixedPoint(most, count)
    shares = [int(weight) / int(weights.max()) for weight in weights]
    total = sum(
        (
            points.encode(one, share).numpy().view(np.uint32)
            for one, share in zip(values, shares, strict=True)
        ),
        start=np.zeros(50, np.uint32),
    )
    mean = points.decode(torch.from_numpy(total.view(np.int32)), sum(shares))
    wanted = (values * weights[:, None]).sum(0) / weights.sum()
    error = float((mean - wanted).abs().max())
    assert error <= points.error(sum(shares)) * (1 + 1e-6) + 1e-12 * most
    assert points.error(sum(shares)) <= 1e-5 * most * max(1.0, count / sum(shares) / 10)


def test_a_value_outside_of_the_range_does_not_wrap() -> None:
    points = FixedPoint(2.0, 5)
    assert points.bits == 27
    for value in (2.001, float("nan"), float("inf")):
        with pytest.raises(RangeError):
            points.encode(torch.tensor([0.0, value]), 1.0)
    assert points.encode(torch.empty(0), 1.0).numel() == 0

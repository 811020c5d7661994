"""Whatever comes over a network, only documented errors come of it: the corpus, and generated inputs.

The seeds are fixed: a failure comes back. `python -m fuzz TARGET` shows every kind of failure, and its input.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

import pytest

from fuzz import guided, inputs
from fuzz.client import ClientTarget
from fuzz.corpora import corpus
from fuzz.frames import joined
from fuzz.inputs import FoundError, Tally, Target, fuzz, try_one
from fuzz.jobs import MASKED, MODES, PRIVATE
from fuzz.server import ServerTarget
from fuzz.targets import TARGETS, target

QUICK_MODES = ("server evaluates", "client labels", "moving cuts")
QUICK = {
    "aggregator": 60, "answers": 5, "client": 100, "codecs": 400, "connection": 600, "dialler": 300,
    "memories": 100, "server": 100, "told": 15, "wire": 2000,
}  # fmt: skip
# The inputs of each side in the long test, a million together; whole parties take most of the time.
SIDES = {
    "server": {
        "server": 60_000, "codecs": 100_000, "memories": 40_000, "connection": 400_000, "wire": 400_000,
    },
    "client": {"client": 60_000, "told": 9_500, "joining": 500, "dialler": 430_000, "wire": 500_000},
    "aggregator": {"aggregator": 60_000, "answers": 2_000, "connection": 438_000, "wire": 500_000},
}  # fmt: skip
LONG = [(side, name) for side, counts in SIDES.items() for name in counts]
# Outcomes that generated inputs must have: else most of them test the same line.
REACHED = {
    "aggregator": ("expelled", "goes on", "refused"),
    "client": ("goes on", "refused: NetworkError", "refused: PolicyError"),
    "connection": ("unread", "refused", "broken", "violation"),
    "dialler": ("unread", "broken", "violation", "told"),
    "codecs": ("refused", "unpacked"),
    "memories": ("refused", "unpacked"),
    "server": ("expelled", "goes on", "turned away"),
    "wire": ("refused", "read"),
}
# What is said of inputs that once did harm.
MENDED = {
    "server": {
        "a-label-of-minus-two": "labels: an id that is not in the vocabulary",
        "started-twice": "Started came again",
        "evaluated-early": "Evaluated of round 0 came where HeldOut of round 0 is next",
    },
    "client": {
        "skip-first": "it came before the state to start from",
        "save-first": "it came before the state to start from",
        "train-without-adapters": "Train cannot be followed: it came before any adapters",
        "evaluate-without-adapters": "Evaluate cannot be followed: it came before any adapters",
        "no-blocks": "no adapters of blocks",
        "frozen-without-a": "no adapters of blocks",
        "hello": "Hello is nothing that a server sends",
        "activations": "Activations is nothing that a server sends",
        "gradients-of-another-shape": "rows of torch.float32 (3, 4)",
        "no-norms": "gradient norms are missing",
        "norms-of-two-dimensions": "gradient norms of torch.float32 (2, 2)",
        "sums-in-the-place-of-gradients": "no held-out rows under way",
        "trunk-output-of-another-shape": "rows of torch.float32 (2,)",
        "gradients-before-the-tail": "came before its trunk output",
        "trunk-output-twice": "has been at the tail before",
        "held-out-output-in-training": "has no batch of step (0, 0) in round 1",
        "a-basis-of-a-high-rank": "a change of basis of rank above 2",
    },
}
SAVED = [(name, stem) for name in sorted(TARGETS) for stem in corpus(name)]


def quick(name: str) -> Target:
    """A target that needs few jobs."""
    parties = {"client": ClientTarget, "server": ServerTarget}
    return parties[name](QUICK_MODES) if name in parties else target(name)


@pytest.mark.parametrize("name", sorted({name for name, _ in SAVED}))
def test_the_corpus_does_no_harm(name: str) -> None:
    for stem, data in corpus(name).items():
        tally = Tally()
        try_one(target(name), data, tally)
        (outcome,) = tally.outcomes
        assert outcome != "no input", stem
        if told := MENDED.get(name, {}).get(stem):
            assert told in target(name).told, stem  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", QUICK)
def test_generated_inputs_raise_documented_errors_alone(name: str) -> None:
    tally = fuzz(quick(name), QUICK[name], seed=1)
    assert tally.inputs == QUICK[name]
    missing = [outcome for outcome in REACHED.get(name, ()) if not tally.outcomes[outcome]]
    assert not missing, tally.outcomes


@pytest.mark.parametrize(("name", "reached"), [
    ("client", ("goes on", "refused: NetworkError")), ("server", ("expelled", "goes on")),
])  # fmt: skip
def test_generated_inputs_of_masked_and_private_jobs(name: str, reached: tuple[str, ...]) -> None:
    for mode in (MASKED, PRIVATE):
        tally = fuzz({"client": ClientTarget, "server": ServerTarget}[name]((mode,)), 60, seed=3)
        assert tally.inputs == 60
        assert not [outcome for outcome in reached if not tally.outcomes[outcome]], (mode, tally.outcomes)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "name"), LONG)
def test_a_million_inputs_a_side_raise_documented_errors_alone(side: str, name: str) -> None:
    count = SIDES[side][name]
    began, tally = time.process_time(), fuzz(target(name), count, seed=2 + [*SIDES].index(side))
    seconds = time.process_time() - began
    slowest, outcomes = f"the slowest {tally.slowest:.2f} s", dict(tally.outcomes)
    print(
        f"{side}, {name}: {count} inputs in {seconds:.0f} s of computing, {slowest}: {outcomes}", flush=True
    )
    assert tally.inputs == count


def test_each_side_has_a_million_inputs() -> None:
    assert {side: sum(counts.values()) for side, counts in SIDES.items()} == dict.fromkeys(SIDES, 10**6)
    assert {name for counts in SIDES.values() for name in counts} == TARGETS.keys()


@pytest.mark.parametrize("name", ["wire", "dialler", "told"])
def test_an_input_follows_from_the_seed(name: str) -> None:
    one, other = (
        [target(name).generate(rng) for _ in range(20)] for rng in (random.Random(7), random.Random(7))
    )
    assert one == other and len(set(one)) > 10


class Harmful:
    """A target with a fault."""

    def __init__(self, fault: str) -> None:
        self.fault, self.kept = fault, list[bytes]()

    def generate(self, rng: random.Random) -> bytes:
        return rng.randbytes(4)

    def run(self, data: bytes) -> str:
        if self.fault == "an error":
            raise KeyError("of no document")
        if self.fault == "memory":
            self.kept.append(b"x" * (100 << 20))
        while self.fault == "time":
            pass
        return "fine"


@pytest.mark.parametrize(
    ("fault", "told"), [("an error", "of no document"), ("memory", "MB more"), ("time", "no end")]
)
def test_a_fault_is_found(fault: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "HANGS_SECONDS", 0.05)
    with pytest.raises(FoundError, match=told):
        fuzz(Harmful(fault), 3)
    assert fuzz(Harmful("none"), 3).outcomes == Counter(fine=3)


def test_no_input_is_left_out_in_silence() -> None:
    """Of a party a line that names no place in a run tests nothing, and says so."""
    for mode in ("no such job", next(iter(MODES))):
        assert target("server").run(f"{mode}|7|Ready 1|0\n".encode()) == "no input"
    assert target("codecs").run(b"no such codec\n" + joined([b"x"])) == "no input"


@pytest.mark.skipif("atheris" in sys.modules, reason="atheris is there")
def test_without_atheris_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guided, "find_spec", lambda name: None)
    assert guided.main() == 0
    assert "pip install atheris" in capsys.readouterr().out


def test_guided_fuzzing_has_seeds_and_a_mutator(tmp_path: object) -> None:
    folder = guided.write_seeds("wire", tmp_path)  # type: ignore[arg-type]
    assert len(list(folder.iterdir())) == len(corpus("wire")) + guided.SEEDS
    mutate = guided.mutator("wire", lambda data, size: data[:size])
    assert {len(mutate(bytes(9), 4, seed)) for seed in range(20)} == {4}
    guided.guided("wire")(bytes(20))

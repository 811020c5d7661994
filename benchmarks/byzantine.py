"""What one dishonest client of five does to the others' held-out perplexity, under each robust_aggregation.

The built-in model and text. The attacker is the client with the most training tokens and the largest cut. It
trains honestly, and then lies:

- flip: it sends start - 10 (trained - start) in place of the adapters that it trained;
- noise: it sends start + Gaussian noise of 10 times the norm of its honest update, block by block;
- flip and feed: flip, and all activations that it trains the trunk with are multiplied by -10;
- quiet flip: start - 2.9 (trained - start), by one who knows that norm_clip scales from 3 times on.

`splitft` has the job's cuts: the attacker holds 6 of 30 blocks, and the server computes the others' updates.
`fed_lora` has whole models at the clients: every update is the attacker's own word. Results go to
results/byzantine.json and docs/robustness.md; runs that are there already are not made again.

    python benchmarks/byzantine.py [only=TEXT] [KEY=VALUE ...]
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from splitft import load_job
from splitft.client.client import Client
from splitft.common.quiet import quiet_libraries
from splitft.common.seeds import torch_generator
from splitft.history import make_record
from splitft.lora.blocks import Adapter, flatten, rank_of, resize, trained_tensors
from splitft.lora.robust import OUTLIER
from splitft.model.split_model import SplitModel
from splitft.round import Observer, run_rounds
from splitft.running.parties import make_parties
from splitft.running.prepare import Assembly, assemble
from splitft.server import average
from splitft.server.average import Contributions
from splitft.wire.ledger import Ledger
from splitft.wire.messages import Activations, AdapterDown, AdapterUp, Message, OptimizerState

ROOT = Path(__file__).parent
RESULTS, PAGE = ROOT / "results" / "byzantine.json", ROOT.parent / "docs" / "robustness.md"
JOB = [
    "cuts=[1, 2, 3, 6, 4]", "rounds=3", "local_steps=3", "per_device_train_batch_size=2",
    "max_eval_samples=40", "eval_every=3", "lr_scheduler_type=constant_with_warmup", "warmup_ratio=0.1",
]  # fmt: skip
ATTACKER, FACTOR, QUIET = "client-3", 10.0, 2.9
ROBUST = ("norm_clip", "median", "trimmed_mean", "krum")
ATTACKS = {"splitft": ("flip", "flip and feed"), "fed_lora": ("flip", "noise", "quiet flip")}


TITLES = {
    "splitft": "Split: the attacker's word counts in 6 of 30 blocks, the server computes the others",
    "fed_lora": "Whole models at the clients (`method: fed_lora`): its word counts in every block",
}
INTRODUCTION = """# What one dishonest client does

<!-- written by benchmarks/byzantine.py -->

One of five clients lies in every round; it has {share:.0f} % of the weight and the largest cut. Figures:
perplexity of the other four's held-out text after the last round ({before:.2f} before training), and how far
that is from the honest run with the same `robust_aggregation`.

- **flip**: in place of what it trained it sends start − 10 × (trained − start).
- **noise**: start + Gaussian noise that is 10 times as long as its honest update, in every block.
- **flip and feed**: flip, and it trains the trunk with its activations times −10.
- **quiet flip**: −2.9 in place of −10, by one who knows that norm_clip scales from 3 times the median on.
"""
CONDITIONS = """
Without a liar no update of a block was longer than {longest:.2f} times the block's median: there norm_clip is
the plain mean, bit by bit.

Conditions: recipe fixed-cuts (SmolLM2-135M, State of the Union, length-Dirichlet 0.5, rank 16), one seed,
{machine}. Repeat with `python benchmarks/byzantine.py`, which sets

`{settings}`
"""


class Attacker:
    """A client that follows the protocol, and lies about what it trained."""

    def __init__(self, client: Client, attack: str) -> None:
        self._client = client
        self._attack = attack
        self._start: list[torch.Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def receive(self, message: AdapterDown) -> OptimizerState | None:
        """Remember where the round starts."""
        state = self._client.receive(message)
        freeze_a = self._client.settings.freeze_a
        blocks = self._client.trained.blocks.values()
        self._start = [flatten(trained_tensors(block, freeze_a)).detach().clone() for block in blocks]
        return state

    def forward(self, round_: int, step: int, micro_step: int) -> Message:
        """Send activations, other than its own where the attack says so."""
        message = self._client.forward(round_, step, micro_step)
        if self._attack == "flip and feed" and isinstance(message, Activations):
            return replace(message, hidden=-FACTOR * message.hidden)
        return message

    def finish(self, round_: int) -> AdapterUp:
        """Send adapters, other than its own."""
        update = self._client.finish(round_)
        generator = torch_generator(self._client.settings.seed, "attack", round_)
        values = []
        for start, trained in zip(self._start, update.values, strict=True):
            honest = trained - start
            if self._attack == "noise":
                noise = torch.randn(start.shape, generator=generator)
                values.append(start + FACTOR * honest.norm() / noise.norm() * noise)
            else:
                values.append(start - (QUIET if self._attack == "quiet flip" else FACTOR) * honest)
        return replace(update, values=tuple(values))


class Nobody(Observer):
    """Sees nothing of a run."""


def watch_lengths() -> list[float]:
    """Return a list that a run fills with every update's length over the median of its block."""
    ratios: list[float] = []
    average_blocks: Callable[..., Adapter] = average.average_blocks

    def watched(settings: Any, old: Adapter, contributions: Contributions, *rest: Any) -> Adapter:
        for block, held in contributions.items():
            start = old[block]
            updates = [flatten(new) - flatten(resize(start, rank_of(new))) for new, _ in held.values()]
            norms = [float(update.double().norm()) for update in updates]
            means = [norm / update.numel() ** 0.5 for norm, update in zip(norms, updates, strict=True)]
            if usual := statistics.median(norms):
                other = statistics.median(means)
                ratios.extend(min(n / usual, m / other) for n, m in zip(norms, means, strict=True))
        return average_blocks(settings, old, contributions, *rest)

    average.average_blocks = watched  # type: ignore[assignment]
    return ratios


@cache
def assembled(method: str, *overrides: str) -> tuple[Assembly, SplitModel]:
    """Load everything for a method once: the base is frozen, and every run starts from the same adapter."""
    settings = [*overrides, f"method={method}", "output_dir=runs/byzantine"]
    start = assemble(load_job("fixed-cuts", settings), Console(quiet=True))
    model = SplitModel(
        start.model, start.split_model.slots, seed=start.job.seed, server_inputs=start.report.server_inputs
    )
    return start, model


def one_run(overrides: Sequence[str], method: str, robust: str, attack: str) -> dict[str, Any]:
    """Train, and return the honest clients' perplexity: exp of their mean loss."""
    start, model = assembled(method, *overrides)
    started = time.perf_counter()
    start = replace(
        start, job=start.job.model_copy(update={"robust_aggregation": robust, "eval_precision": None})
    )
    parties = make_parties(start, model)
    clients: Any = parties.cohort.clients  # type: ignore[union-attr]
    if attack in ATTACKS[method]:
        clients[ATTACKER] = Attacker(clients[ATTACKER], attack)
    unwatched = average.average_blocks
    ratios = watch_lengths()
    first = make_record(
        0, [], {}, losses={}, metrics={}, ledger=Ledger(), seconds=(0, 0), times=None, truncation_errors={}
    )
    untrained = attack == "untrained"
    rounds: Iterator[Any] = run_rounds(
        start.job, parties.policy, parties.server, parties.cohort, parties.ledger, Nobody(),
        last=None if untrained else first,
    )  # fmt: skip
    record = next(rounds) if untrained else list(rounds)[-1]
    average.average_blocks = unwatched
    honest = [client for name, client in record.clients.items() if name != ATTACKER]
    tokens = sum(client.eval_tokens for client in honest)
    logs = [torch.tensor(client.perplexity).double().log() * client.eval_tokens for client in honest]
    return {
        "perplexity": float((sum(logs) / tokens).exp()),
        "longest_over_median": max(ratios, default=None),
        "share_of_tokens": record.clients[ATTACKER].train_tokens / max(1, record.train_tokens),
        "held_out_tokens": tokens,
        "seconds": time.perf_counter() - started,
    }


def planned() -> Iterator[tuple[str, str, str]]:
    """Yield (method, robust_aggregation, attack) of all runs.

    An honest run with norm_clip is the one with none, as long as no update is long enough to be scaled.
    """
    yield "splitft", "none", "untrained"
    first: list[tuple[str, str, str]] = []
    later: list[tuple[str, str, str]] = []
    for method, attacks in reversed(ATTACKS.items()):
        worst = "flip" if method == "fed_lora" else "flip and feed"
        first.append((method, "none", "honest"))
        first.extend((method, "norm_clip", attack) for attack in attacks)
        for robust in ROBUST[1:]:
            first.extend([(method, robust, "honest"), (method, robust, worst)])
            later.extend((method, robust, a) for a in attacks if a != worst)
        later.append((method, "none", "flip"))
    yield from first  # what matters most first
    yield from later


def page(done: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Return docs/robustness.md."""
    runs = {tuple(key.split(" / ")): run for key, run in done["runs"].items()}
    shares = [run["share_of_tokens"] for key, run in runs.items() if key[2] != "untrained"]
    longest = max(run["longest_over_median"] for key, run in runs.items() if key[1:] == ("none", "honest"))
    assert longest <= OUTLIER, "norm_clip changes an honest run: it needs a run of its own"
    text = INTRODUCTION.format(share=100 * max(shares), before=runs[next(planned())]["perplexity"])
    for method, title in TITLES.items():
        columns = ["honest", *ATTACKS[method]]
        text += f"\n## {title}\n\n| robust_aggregation | {' | '.join(columns)} |\n"
        text += "|---" * (len(columns) + 1) + "|\n"
        for robust in ("none", *ROBUST):
            alone = runs.get((method, "none" if robust == "norm_clip" else robust, "honest"))
            if alone is None:
                continue
            honest = alone["perplexity"]
            cells = [f"{honest:.2f}"]
            for attack in ATTACKS[method]:
                run = runs.get((method, robust, attack))
                cells.append(cell(run["perplexity"], honest) if run else "–")
            text += f"| {robust} | {' | '.join(cells)} |\n"
    settings = " ".join(f"'{setting}'" if " " in setting else setting for setting in overrides)
    return text + CONDITIONS.format(longest=longest, settings=settings, machine=done["machine"])


def cell(perplexity: float, honest: float) -> str:
    """Return a perplexity and how far it is from the honest one."""
    value = f"{perplexity:.2f}" if perplexity < 1e4 else f"{perplexity:.1e}"
    change = 100 * (perplexity / honest - 1)
    return f"{value} ({change:+.1f} %)" if change < 1000 else value


def main() -> None:
    quiet_libraries()
    only = [argument[5:] for argument in sys.argv[1:] if argument.startswith("only=")]
    overrides = [*JOB, *(argument for argument in sys.argv[1:] if not argument.startswith("only="))]
    results = RESULTS if overrides == JOB else ROOT.parent / "runs" / "byzantine.json"
    done: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    if done.get("job") != overrides:
        machine = f"{platform.machine()}, torch {torch.__version__}"
        done = {"job": overrides, "machine": machine, "runs": {}}
    for case in planned():
        key = " / ".join(case)
        if key in done["runs"] or not all(text in key for text in only):
            continue
        done["runs"][key] = run = one_run(overrides, *case)
        print(f"{key:<40} {run['perplexity']:10.3f}  {run['seconds']:.0f} s", flush=True)
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(done, indent=1))
    written = PAGE if results == RESULTS else results.with_suffix(".md")
    written.write_text(page(done, overrides))
    print(f"wrote {written}")


if __name__ == "__main__":
    main()

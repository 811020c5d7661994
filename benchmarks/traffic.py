"""The traffic of a whole job, by codec, against padded float32 tensors on the same steps.

SmolLM2's split at cut 2 and State of the Union paragraphs dealt by length (Dirichlet 0.1), rows of at most
512 tokens, ten rounds an epoch; adapters, labels and headers are counted, evaluation is not, on any side. The
bytes are those of `splitft plan`, which equal a run's to the byte (tests/invariant/test_plan.py). The
yardsticks are float32 activations up and gradients down of the same batches, padded to 512 tokens or to each
batch's longest row. --frozen: with train_front: false.

With --proxy, instead, the job's first --proxy-rounds rounds run over connections, every client behind a
proxy that counts, on three narrow blocks of SmolLM2's width with random weights (in bfloat16 where a codec
packs the rows): none of this changes a byte of what crosses the cut. Its ledger must be the plan's to the
byte; what the proxies count on top of it is framing (sessions, gRPC, HTTP/2) and the job that is told.
--quick-loss: train on the mean square of what enters the head in the place of the loss, which would be nearly
all of the time of such a model.

    python benchmarks/traffic.py [--proxy] [--frozen] [--epochs 1] [--codecs int8/int8 int3/int2 ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from splitft import Job, load_job
from splitft.data import train_stream
from splitft.model.config import text_config
from splitft.running.prepare import Assembly, assemble
from splitft.tools.plan.dry import dry_run
from splitft.wire.channel import Channel
from splitft.wire.ledger import EVALUATION_KINDS, Ledger
from splitft.wire.messages import Activations, Gradients

CODECS = ("none/none", "bf16/bf16", "int8/int8", "int4/int4", "int3/int2")
LONGEST, ROUNDS = 512, 10  # tokens; rounds of an epoch
QUIET = Console(quiet=True)
RESULTS = Path(__file__).parent / "results"


def make_job(
    folder: Path, clients: int, rounds: int, local_steps: int, model: str, frozen: bool = False
) -> Job:
    return load_job("fixed-cuts", [
        f"model_name_or_path={model}", "bf16=false", f"clients={clients}", "cuts=2", "lora_r_cut=8",
        f"max_length={LONGEST}", "partition.alpha=0.1", f"rounds={rounds}", f"local_steps={local_steps}",
        f"train_front={'false' if frozen else 'true'}",
        f"eval_every={rounds}", "max_eval_samples=5", "save_every=0", f"output_dir={folder / 'run'}",
    ])  # fmt: skip


def steps_of_a_round(start: Assembly) -> int:
    """Return the local steps of a round, ROUNDS of which train on as many rows as there are."""
    rows = sum(len(data.train) for data in start.clients)
    batch = start.job.per_device_train_batch_size
    return max(1, round(rows / (len(start.clients) * batch * ROUNDS)))


def padded(start: Assembly) -> dict[str, int]:
    """Return the bytes of the same batches as padded float32, up and down, and their real tokens."""
    job, width = start.job, text_config(start.model).hidden_size
    tokens = to_longest = to_batch = 0
    for data in start.clients:
        stream = train_stream(job, data.name, data.train)
        for _ in range(job.rounds * job.local_steps):
            lengths = [int(data.train.lengths[i]) for i in next(stream)]
            tokens += sum(lengths)
            to_longest += LONGEST * len(lengths)
            to_batch += max(lengths) * len(lengths)
    both = 2 * 4 * width
    return {"tokens": tokens, "padded to 512": both * to_longest, "padded to the batch": both * to_batch}


def planned(start: Assembly, codec: str) -> dict[str, int]:
    """Return {direction and kind: bytes} of the job with a codec, without evaluation.

    A plan of one local step a round, without the messages of that step, and those of all steps: what goes
    with a round does not depend on how many steps it has. That this is the plan of the whole is checked on
    two rounds of three steps.
    """
    activations, _, gradients = codec.partition("/")
    codecs = {"codec": activations, "gradient_codec": gradients or None}
    job = start.job.model_copy(update=codecs)
    few = job.model_copy(update={"rounds": 2, "local_steps": 3})
    if plan_bytes(start, few) != from_one_step(start, few):
        raise AssertionError("the messages of a step are not those of the plan")
    counts = from_one_step(start, job)
    return {f"{way} {kind}": n for (way, kind), n in sorted(counts.items()) if kind not in EVALUATION_KINDS}


def plan_bytes(start: Assembly, job: Job) -> Counter[tuple[str, str]]:
    """Return {(direction, kind): bytes} of a job's plan."""
    return +Counter(dry_run(replace(start, job=job), lambda round_: None).parties.ledger.rows)


def from_one_step(start: Assembly, job: Job) -> Counter[tuple[str, str]]:
    """Return the same from the plan of one local step a round."""
    one = job.model_copy(update={"local_steps": 1, "warmup_ratio": 0.0})
    counts = plan_bytes(start, one)
    counts.subtract(step_bytes(start, one))
    counts.update(step_bytes(start, job))
    return +counts


def step_bytes(start: Assembly, job: Job) -> Counter[tuple[str, str]]:
    """Return the bytes of the messages of all local steps."""
    width, cut = int(text_config(start.model).hidden_size), int(job.cuts)  # type: ignore[arg-type]
    layout = start.split_model.slots.layout
    tensors = [sum(len(s) for b, s in layout.items() if (b < cut) == below) for below in (True, False)]
    ledger = Ledger()
    for data in start.clients:
        stream, channel = train_stream(job, data.name, data.train), Channel(job, width, values=False)
        channel.memory.move(cut)
        for number in range(job.rounds * job.local_steps):
            round_, step = 1 + number // job.local_steps, number % job.local_steps
            samples = [int(i) for i in next(stream)]
            lengths = [int(data.train.lengths[i]) for i in samples]
            missing = channel.memory.missing(samples, lengths)
            sent = range(len(samples)) if missing is None else missing
            tokens = sum(lengths[place] for place in sent)
            rows = torch.zeros(1, 1).expand(tokens, width) if tokens else torch.empty(0)
            up = Activations(
                round_, step, 0, True, tuple(lengths), rows, torch.zeros(tokens, dtype=torch.int32), None, 0,
                torch.zeros(tensors[0]) if step else None, samples=tuple(samples),
            )  # fmt: skip
            ledger.count("up", channel.pack(up))
            gradient = torch.zeros(1, 1).expand(sum(lengths), width) if job.train_front else torch.empty(0)
            down = Gradients(round_, step, 0, 0.0, gradient, torch.zeros(tensors[1]))
            ledger.count("down", channel.pack(down))
    return Counter(ledger.rows)  # type: ignore[arg-type]


def small_model(folder: Path, like: str) -> Path:
    """Write three blocks of a model's shape, with random weights and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from splitft.running.fallback import resolve_sources
    from splitft.weights.load import load_config, load_tokenizer

    job, _ = resolve_sources(load_job("fixed-cuts", [f"model_name_or_path={like}"]))
    config = load_config(job.model_name_or_path, job.model_revision)
    config.num_hidden_layers, config.intermediate_size = 3, 64
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    load_tokenizer(job.model_name_or_path, "main").save_pretrained(folder)
    return folder


def through_proxies(job: Job, folder: Path) -> dict[str, int]:
    """Run a job over connections, each through a proxy; return bytes on the wire and by the ledger."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    from splitft.running.join import join
    from splitft.running.network import client_names
    from splitft.running.serve import serve
    from tcp_proxy import Proxy

    names, proxies, listening = client_names(job), list[Proxy](), Event()

    def on_listening(listener: Any) -> None:
        proxies.extend(Proxy(listener.port) for _ in names)
        listening.set()

    def take_part(number: int) -> None:
        listening.wait()
        address = f"127.0.0.1:{proxies[number].port}"
        join(
            address,
            names[number],
            job_data=True,
            accept="first",
            folder=folder / names[number],
            console=QUIET,
        )

    with ThreadPoolExecutor(len(names)) as pool:
        clients = [pool.submit(take_part, number) for number in range(len(names))]
        result = serve(job, "127.0.0.1:0", console=QUIET, on_listening=on_listening)
        for client in clients:
            client.result()
    found = {f"wire {way}": sum(getattr(proxy, way) for proxy in proxies) for way in ("up", "down")}
    for proxy in proxies:
        proxy.close()
    kinds = {
        f"{way} {kind}": n for way, kinds in result.summary["bytes"].items() for kind, n in kinds.items()
    }
    return found | kinds


def quick_loss(self: Any, start: int, place: Any, *, labels: Any, loss_tokens: int, **inputs: Any) -> Any:
    """Stands for SplitModel.loss."""
    hidden = self._head.hidden(lambda: self.run(start, self.num_blocks, place, **inputs))
    return hidden.float().square().mean()


def compare_with_proxies(options: argparse.Namespace, local_steps: int, folder: Path) -> dict[str, Any]:
    """Run the first rounds with each codec; return bytes on the wire, by the ledger and by the plan."""
    from splitft.model.split_model import SplitModel

    if options.quick_loss:
        SplitModel.loss = quick_loss  # type: ignore[method-assign]
    small, found = str(small_model(folder / "small", options.model)), {}
    for codec in options.codecs:
        activations, _, gradients = codec.partition("/")
        own = folder / codec.replace("/", "-")
        job = make_job(own, options.clients, options.proxy_rounds, local_steps, small, options.frozen)
        change = {"codec": activations, "gradient_codec": gradients, "bf16": codec != "none/none"}
        job = job.model_copy(update=change)
        plan = planned(assemble(job, QUIET, weights=False), codec)
        counted = through_proxies(job, own)
        ledger = {
            name: n
            for name, n in counted.items()
            if not name.startswith("wire") and name.split()[-1] not in EVALUATION_KINDS
        }
        more = {
            way: counted[f"wire {way}"] / sum(n for name, n in counted.items() if name.startswith(way)) - 1
            for way in ("up", "down")
        }
        found[codec] = {"counted": counted, "plan": plan, "equal": ledger == plan, "wire_over_ledger": more}
        said = f"{sum(ledger.values()) / 2**20:.2f} MiB, {'as' if ledger == plan else 'NOT as'} planned"
        over = f"up {more['up']:.3%}, down {more['down']:.3%}"
        print(f"{codec:<12}ledger {said}; wire over ledger, with evaluation: {over}", flush=True)
        write(found, options.out)
    return found


def write(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codecs", nargs="+", default=list(CODECS))
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--frozen", action="store_true")
    parser.add_argument("--proxy", action="store_true")
    parser.add_argument("--quick-loss", action="store_true")
    parser.add_argument("--proxy-rounds", type=int, default=1)
    parser.add_argument("--proxy-steps", type=int, help="of a round; default: a tenth of an epoch")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.out = options.out or RESULTS / ("traffic_proxy.json" if options.proxy else "traffic.json")
    with tempfile.TemporaryDirectory() as scratch:
        folder, rounds = Path(scratch), options.epochs * ROUNDS
        start = assemble(make_job(folder, options.clients, 1, 1, options.model), QUIET, weights=False)
        job = (options.clients, rounds, steps_of_a_round(start))
        if options.proxy:
            compare_with_proxies(options, options.proxy_steps or job[2], folder)
            return
        start = assemble(make_job(folder, *job, options.model, options.frozen), QUIET, weights=False)
        yardsticks = padded(start)
        result: dict[str, Any] = {"rounds": rounds, "local_steps": job[2], "yardsticks": yardsticks}
        print(f"{rounds} rounds of {job[2]} steps, {yardsticks['tokens']} tokens; MiB, share of padded fp32")
        print(f"{'up/down':<12}{'total':>10}{'to 512':>9}{'to batch':>10}   adapters, labels, headers")
        for codec in options.codecs:
            kinds = planned(start, codec)
            total = sum(kinds.values())
            rest = total - kinds["up activations"] - kinds.get("down gradients", 0)
            shares = [total / yardsticks[name] for name in ("padded to 512", "padded to the batch")]
            shown = f"{shares[0]:>9.2%}{shares[1]:>10.2%}  {rest / 2**20:>10.1f}"
            print(f"{codec:<12}{total / 2**20:>10.1f}{shown}", flush=True)
            result[codec] = {"bytes": kinds, "to_512": shares[0], "to_batch": shares[1]}
            write(result, options.out)


if __name__ == "__main__":
    main()

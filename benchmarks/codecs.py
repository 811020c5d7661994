"""Codecs alone: time to encode and decode 6.3 MB on one thread, bytes, and the error on real hidden states.

Times: (2730, 576) float32 rows, samples of 100 tokens; median of 31 calls each, codecs in turn. Bytes and
errors: activations and gradients at cut 2 of SmolLM2 on State of the Union paragraphs, before training; the
error is the share of the energy that is lost.

    python benchmarks/codecs.py [--repeats 31] [--batches 6]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from splitft import load_job
from splitft.running.parties import make_parties
from splitft.running.prepare import assemble
from splitft.wire.codecs.codec import Codec
from splitft.wire.codecs.registry import make_codec
from splitft.wire.messages import Activations, Gradients

NAMES = ("bf16", "int8", "int4", "int3", "int2")
SETTINGS = ["max_length=512", "cuts=2", "lora_r_cut=16", "codec=none"]
Rows = tuple[tuple[int, ...], Tensor]  # lengths of the samples, (tokens, width)


def real_rows(batches: int) -> dict[str, list[Rows]]:
    """Return activations and gradients of a few local steps."""
    with tempfile.TemporaryDirectory() as folder:
        job = load_job("fixed-cuts", [*SETTINGS, f"output_dir={folder}"])
        start = assemble(job, Console(quiet=True))
        parties = make_parties(start)
        server, cohort = parties.server, parties.cohort
        cohort.receive(server.hand_out(1, parties.policy.decide(1, None)))
        found: dict[str, list[Rows]] = {"activations": [], "gradients": []}
        for messages in cohort.train(cohort.names, 1, together=False):
            ((name, message),) = messages.items()
            assert isinstance(message, Activations)
            replies = server.step(messages)
            reply = replies[name]
            assert isinstance(reply, Gradients)
            found["activations"].append((message.lengths, message.hidden.float()))
            found["gradients"].append((message.lengths, reply.gradient.float()))
            cohort.answer(replies)
            if len(found["gradients"]) == batches:
                break
        return found


def times(codecs: dict[tuple[str, str], Codec], repeats: int) -> dict[tuple[str, str], dict[str, float]]:
    """Return median milliseconds to encode and to decode, of each codec."""
    lengths, rows = [100] * 27 + [30], torch.randn(2730, 576)
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in codecs}
    for _ in range(repeats + 2):
        for key, codec in codecs.items():
            began = time.perf_counter()
            parts = codec.encode(rows, lengths)
            between = time.perf_counter()
            codec.decode(parts, lengths, 576)
            taken[key].append((between - began, time.perf_counter() - between))
    return {
        key: {
            "encode_ms": 1e3 * statistics.median(pair[0] for pair in pairs[2:]),
            "decode_ms": 1e3 * statistics.median(pair[1] for pair in pairs[2:]),
        }
        for key, pairs in taken.items()
    }


def measure(codec: Codec, batches: list[Rows]) -> dict[str, float]:
    """Return bytes against float32, and the share of the energy that is lost."""
    sent, plain, lost, energy = 0, 0, 0.0, 0.0
    for lengths, rows in batches:
        parts = codec.encode(rows, lengths)
        back = codec.decode(parts, lengths, rows.shape[1])
        sent += sum(part.nbytes for part in parts)
        plain += 4 * rows.numel()
        lost += float((back - rows).square().sum())
        energy += float(rows.square().sum())
    return {"bytes": sent / plain, "error": lost / energy}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--batches", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = real_rows(options.batches)
    codecs = {}
    for what in rows:
        for name in NAMES:
            made = make_codec(name, what)  # type: ignore[arg-type]
            assert made is not None
            codecs[name, what] = made
    taken = times(codecs, options.repeats)
    result: dict[str, Any] = {
        f"{name} {what}": taken[name, what] | measure(codec, rows[what])
        for (name, what), codec in codecs.items()
    }
    print(f"{'':<18}{'bytes':>8}{'error':>10}{'encode':>10}{'decode':>10}")
    for key, figures in result.items():
        print(
            f"{key:<18}{figures['bytes']:>8.4f}{figures['error']:>10.2%}"
            f"{figures['encode_ms']:>7.2f} ms{figures['decode_ms']:>7.2f} ms"
        )
    machine = f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    path = Path(__file__).parent / "results" / "codecs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "settings": SETTINGS, "codecs": result}, indent=1))


if __name__ == "__main__":
    main()

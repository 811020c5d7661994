"""What a codec costs in quality: the same job with each codec, paired by seed, on SmolLM2.

One client with all of the training text, cut 2, 150 local steps of 4 paragraphs, rank 16 on the attention.
Held-out perplexity is of the trained adapter, evaluated without any codec (`eval_codec=none`). `topk` stands
beside them: the tenth of the values that are largest, the rest zero.

    python benchmarks/codec_quality.py [--seeds 0 1 2] [--parallel 2] [--settings none/none int3/int2 ...]
        [--plot FILE.svg] [--finished]

--finished: run nothing, and show what has been run.

A setting is ACTIVATIONS/GRADIENTS. Finished runs are kept in results/codec_quality and not made again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchlib.pictures import draw_quality

FOLDER = Path(__file__).parent / "results" / "codec_quality"
SETTINGS = ("none/none", "int8/int8", "int4/int4", "int4/int2", "int3/int2", "int2/int2", "topk/topk")
JOB = [
    "clients=1", "cuts=2", "lora_r_cut=16", "rounds=3", "local_steps=50", "max_length=96", "eval_every=3",
    "max_eval_samples=128", "eval_codec=none", "save_every=0", "partition.method=iid",
    "learning_rate=5e-4", "lr_scheduler_type=linear", "warmup_ratio=0.1",
]  # fmt: skip


class TopK:
    """The tenth of a message's values that are largest, and where they stand."""

    def layout(self, lengths: Sequence[int], width: int) -> Any:
        import torch

        from splitft.wire.codecs.codec import Part

        count = max(1, sum(lengths) * width // 10)
        return Part("values", torch.float32, (count,)), Part("places", torch.int32, (count,))

    def encode(self, rows: Any, lengths: Sequence[int]) -> Any:
        flat = rows.float().flatten()
        places = flat.abs().topk(max(1, flat.numel() // 10)).indices
        return flat[places], places.int()

    def decode(self, parts: Any, lengths: Sequence[int], width: int) -> Any:
        values, places = parts
        return values.new_zeros(sum(lengths) * width).index_copy_(0, places.long(), values).view(-1, width)


def measure(work: tuple[str, int]) -> None:
    """Run one setting with one seed, in a process of its own."""
    import torch
    from rich.console import Console

    from splitft import load_job, register_codec, run

    setting, seed = work
    torch.set_num_threads(1)
    register_codec("topk", TopK)
    codec, _, gradient_codec = setting.partition("/")
    folder = FOLDER / f"{codec}-{gradient_codec}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    changes = [f"codec={codec}", f"gradient_codec={gradient_codec}", f"seed={seed}", f"output_dir={folder}"]
    run(load_job("fixed-cuts", [*JOB, *changes]), console=Console(quiet=True))
    print(f"{setting}, seed {seed}: {figures(setting, seed)}", flush=True)


def figures(setting: str, seed: int) -> dict[str, float] | None:
    """Return a finished run's perplexity and bytes, None where there is none."""
    path = FOLDER / f"{setting.replace('/', '-')}-{seed}" / "summary.json"
    if not path.exists():
        return None
    summary = json.loads(path.read_text())
    if summary["interrupted"]:
        return None
    traffic = summary["bytes"]
    sent = traffic["up"]["activations"] + traffic["down"]["gradients"]
    return {"perplexity": summary["perplexity"], "bytes": sent}


def table(settings: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Return figures of all settings against `none`, paired by seed."""
    plain = {seed: figures("none/none", seed) for seed in seeds}
    result: dict[str, Any] = {}
    for setting in settings:
        pairs = [(figures(setting, seed), plain[seed]) for seed in seeds]
        ratios = [one["perplexity"] / other["perplexity"] - 1 for one, other in pairs if one and other]
        sent = [
            one["bytes"] / (2 * other["bytes"]) for one, other in pairs if one and other
        ]  # plain: bfloat16
        if ratios:
            result[setting] = {
                "perplexity": [one["perplexity"] for one, _ in pairs if one],
                "against_none": ratios,
                "mean": statistics.mean(ratios),
                "bytes": statistics.mean(sent),
            }
    return result


def plot(found: dict[str, Any], path: Path) -> None:
    """Write an SVG: the change of perplexity by codec, those that send the least first."""
    differences = {
        setting.replace("/", " / "): (2 * of["bytes"], of["against_none"])  # of bfloat16's
        for setting, of in found.items()
        if setting != "none/none"
    }
    draw_quality(differences, path, 0.05, "Quality by codec")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS))
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--finished", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    wanted = [(setting, seed) for seed in options.seeds for setting in options.settings]
    missing = [work for work in wanted if figures(*work) is None and not options.finished]
    with multiprocessing.get_context("spawn").Pool(options.parallel, maxtasksperchild=1) as pool:
        for _ in pool.imap_unordered(measure, missing):
            pass
    result = table(options.settings, options.seeds)
    print(f"{'up/down':<12}{'bytes':>8}{'mean':>9}   by seed")
    for setting, found in result.items():
        by_seed = "  ".join(f"{ratio:+.2%}" for ratio in found["against_none"])
        print(f"{setting:<12}{found['bytes']:>8.3f}{found['mean']:>+9.2%}   {by_seed}")
    if options.plot:
        plot(result, options.plot)
    (FOLDER.parent / "codec_quality.json").write_text(json.dumps({"job": JOB, "settings": result}, indent=1))


if __name__ == "__main__":
    main()

"""What later epochs cost in quality: three epochs of the same samples, `codec: delta` and frozen fronts.

SmolLM2 in bfloat16, one client, 120 paragraphs of at most 96 tokens, three epochs of 30 local steps of 4,
rank 16 on the attention. Held-out perplexity is of the trained adapter, evaluated without any codec
(`eval_codec=none`), paired by seed with the same job without a codec; bytes are those of activations and
gradients of all three epochs, the first included, against float32 of the same rows.

    python benchmarks/epochs.py [--seeds 0 1 2] [--cut 2] [--settings none delta frozen]

Finished runs are kept in results/epochs and not made again. One run takes three minutes of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results" / "epochs"
SAMPLES, BATCH, EPOCHS = 120, 4, 3
PLAIN_CUT = 2  # of the runs without a codec, in which the cut changes nothing (tests/invariant)
JOB = [
    "clients=1", "lora_r_cut=16", f"rounds={EPOCHS}", f"local_steps={SAMPLES // BATCH}", "max_length=96",
    f"max_train_samples={SAMPLES}", f"per_device_train_batch_size={BATCH}", f"eval_every={EPOCHS}",
    "max_eval_samples=96", "eval_codec=none", "save_every=0", "partition.method=iid",
    "learning_rate=5e-4", "lr_scheduler_type=linear", "warmup_ratio=0.1",
]  # fmt: skip
SETTINGS = {
    "none": ["codec=none"],
    "delta": ["codec=delta"],
    "frozen": ["codec=int4", "train_front=false"],
}


def folder_of(setting: str, cut: int, seed: int) -> Path:
    return FOLDER / f"{setting}-{cut}-{seed}"


def measure(setting: str, cut: int, seed: int) -> None:
    """Run one setting with one seed."""
    import torch
    from rich.console import Console

    from splitft import load_job, run

    torch.set_num_threads(1)
    folder = folder_of(setting, cut, seed)
    shutil.rmtree(folder, ignore_errors=True)
    changes = [*SETTINGS[setting], f"cuts={cut}", f"seed={seed}", f"output_dir={folder}"]
    run(load_job("fixed-cuts", [*JOB, *changes]), console=Console(quiet=True))
    print(f"{setting}, cut {cut}, seed {seed}: {figures(setting, cut, seed)}", flush=True)


def figures(setting: str, cut: int, seed: int) -> dict[str, float] | None:
    """Return a finished run's perplexities and its bytes against float32; None where there is none."""
    path = folder_of(setting, cut, seed) / "summary.json"
    if not path.exists():
        return None
    summary = json.loads(path.read_text())
    if summary["interrupted"]:
        return None
    history = [json.loads(line) for line in path.with_name("history.jsonl").read_text().splitlines()]
    traffic = summary["bytes"]
    sent = traffic["up"]["activations"] + traffic["down"].get("gradients", 0)
    return {"before": history[0]["perplexity"], "perplexity": summary["perplexity"], "bytes": sent}


def table(settings: Sequence[str], cut: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the figures of all settings against `none`, paired by seed."""
    plain = {seed: figures("none", PLAIN_CUT, seed) for seed in seeds}
    result: dict[str, Any] = {}
    for setting in settings:
        own = cut if setting != "none" else PLAIN_CUT
        pairs = [(figures(setting, own, seed), plain[seed]) for seed in seeds]
        found = [(one, other) for one, other in pairs if one and other]
        if found:
            result[setting] = {
                "perplexity": [one["perplexity"] for one, _ in found],
                "before": [one["before"] for one, _ in found],
                "against_none": [one["perplexity"] / other["perplexity"] - 1 for one, other in found],
                "bytes": statistics.mean(  # without a codec rows are bfloat16
                    one["bytes"] / (2 * other["bytes"]) for one, other in found
                ),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cut", type=int, default=2)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["none", "delta", "frozen"])
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for seed in options.seeds:
        for setting in options.settings:
            cut = options.cut if setting != "none" else PLAIN_CUT
            if figures(setting, cut, seed) is None:
                measure(setting, cut, seed)
    result = table(options.settings, options.cut, options.seeds)
    print(f"{'cut ' + str(options.cut):<10}{'bytes':>8}   perplexity (before, after), against none, by seed")
    for setting, found in result.items():
        by_seed = "  ".join(
            f"{before:.2f} {after:.2f} {ratio:+.2%}"
            for before, after, ratio in zip(
                found["before"], found["perplexity"], found["against_none"], strict=True
            )
        )
        print(f"{setting:<10}{found['bytes']:>8.3f}   {by_seed}")
    place = FOLDER.parent / f"epochs-{options.cut}.json"
    place.write_text(json.dumps({"job": JOB, "settings": result}, indent=1))


if __name__ == "__main__":
    main()

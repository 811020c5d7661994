"""CPU seconds of two versions of the project: a split training step in float32 and bfloat16, and a whole run.

    python benchmarks/step_cpu.py BEFORE [AFTER] [--repeats 5] [--steps 12] [--parts fp32 bf16 …]

BEFORE and AFTER are git revisions or folders, as for same_results.py; AFTER is the present working tree by
default. Only whole runs of the command line are measured, user and system seconds of all their processes, so
that the versions may have any modules inside. The parts:

- fp32, bf16: one client and its server in one process, GPT2-small's shape with random weights, rank 16 on
  c_attn and c_proj, cut 2, 4 rows of 128 tokens, no codec. The seconds of a step are those of a run with some
  more local steps, less those of a run with few, over the number of steps between the two (--steps).
- recipe: the whole recipe study-smollm2, start and evaluation included, on padded rows.
- default: the same as each version runs it where nothing is stated.
- quickstart: a job of the size of the README's first one, with keys that all versions know: five clients with
  fixed cuts, 15 local steps in 3 rounds; all else as each version has it by default. The perplexity of all
  held-out rows at the end is compared, too.

Both versions take turns, pair by pair, each of them first in every other pair. The table has the medians of
both versions' seconds, and the median, least and greatest ratio (after to before) of the pairs. The first
run of each part, which writes the built-in model, is not counted. On a machine with other work the ratios of
single pairs differ by some 5 %: take the median of several pairs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchlib.checkouts import Checkout, CommandError, open_checkouts, run_commands, settings_for
from benchlib.record import RESULTS, ratio, save, spread, table

STEPS = ("fp32", "bf16")
FEW = 2  # local steps of the shorter run
STATED: dict[str, Any] = {
    "padding_free": False, "micro_batches": 1, "server_batch_tokens": 0, "codec": "none", "use_cpu": True
}  # fmt: skip
RECIPE = "study-smollm2"
RECIPES: dict[str, dict[str, Any]] = {"recipe": STATED, "default": {"use_cpu": True}}
QUICKSTART: dict[str, Any] = {
    "model_name_or_path": "builtin:smollm2-135m", "bf16": True, "dataset_name": "builtin:sotu",
    "document_column": "speech", "max_length": 96, "max_eval_samples": 128,
    "partition": {"method": "length_dirichlet", "alpha": 0.5}, "clients": 5, "cuts": [1, 2, 3, 4, 6],
    "rounds": 3, "local_steps": 5, "labels": "server", "lora_r": 16, "lora_r_cut": 8, "lora_alpha": 32,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "learning_rate": 2e-3,
    "lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1, "per_device_train_batch_size": 4,
    "use_cpu": True,
}  # fmt: skip
PARTS = (*STEPS, *RECIPES, "quickstart")
STEP: dict[str, Any] = STATED | {
    "model_name_or_path": "builtin:gpt2-random", "dataset_name": "builtin:sotu", "max_train_samples": 2000,
    "max_eval_samples": 4, "max_length": 128, "packing": True, "clients": 1, "cuts": 2, "rounds": 1,
    "partition": {"method": "iid"}, "per_device_train_batch_size": 4, "lora_r": 16, "save_every": 0,
    "lora_target_modules": ["c_attn", "c_proj"], "lr_scheduler_type": "constant", "labels": "server",
}  # fmt: skip


def run_once(checkout: Checkout, recipe: str, settings: Mapping[str, Any]) -> tuple[float, float]:
    """Run a recipe, or without one a job of these settings alone, in a new folder.

    Returns its CPU seconds, and the perplexity at its end.
    """
    folder = checkout.scratch / f"run-{len(list(checkout.scratch.glob('run-*')))}"
    folder.mkdir()
    settings = settings_for(checkout, {**settings, "output_dir": str(folder / "run")})
    job = folder / "job.yaml"
    job.write_text(json.dumps(settings), encoding="utf-8")
    changes = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    command = ["run", recipe, *changes] if recipe else ["run", str(job)]
    seconds = run_commands(checkout, {"log": command}, folder).cpu_seconds
    lines = (folder / "run" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return seconds, float(json.loads(lines[-1])["perplexity"])


def measure(checkout: Checkout, part: str, steps: int) -> tuple[float, float | None]:
    """Return the CPU seconds of a part, of a step or of a whole run, and of a run its last perplexity."""
    if part == "quickstart":
        return run_once(checkout, "", QUICKSTART)
    if part in RECIPES:
        return run_once(checkout, RECIPE, RECIPES[part])
    few, more = (
        run_once(checkout, "", STEP | {"bf16": part == "bf16", "local_steps": count})[0]
        for count in (FEW, FEW + steps)
    )
    return (more - few) / steps, None


def measure_pairs(sides: tuple[Checkout, Checkout], part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of a part with both versions, and their ratio, over all pairs."""
    for checkout in sides:
        few = {"rounds": 1, "local_steps": 1, "max_eval_samples": 4}
        if part in RECIPES:
            run_once(checkout, RECIPE, RECIPES[part] | few)
        elif part in STEPS:
            run_once(checkout, "", STEP | {"bf16": part == "bf16", "local_steps": 1})
        else:
            run_once(checkout, "", QUICKSTART | few)
    seconds: dict[str, list[float]] = {checkout.side: [] for checkout in sides}
    perplexity: dict[str, float | None] = {}
    for pair in range(options.repeats):
        for checkout in sides if pair % 2 == 0 else sides[::-1]:
            took, perplexity[checkout.side] = measure(checkout, part, options.steps)
            seconds[checkout.side].append(took)
        before, after = (seconds[checkout.side][-1] for checkout in sides)
        ends = "".join(f"  perplexity {value:.3f} {side}" for side, value in perplexity.items() if value)
        print(f"{part:<11}{before:9.3f}{after:9.3f} CPU s  ratio {after / before:.3f}{ends}", flush=True)
    figures = {side: spread(values) for side, values in seconds.items()}
    found = {"seconds": figures, "after_to_before": ratio(seconds["after"], seconds["before"])}
    return found | ({"perplexity": perplexity} if None not in perplexity.values() else {})


def show(result: Mapping[str, Any]) -> None:
    """Print the figures as a table."""
    rows = []
    for part in (part for part in PARTS if part in result):
        seconds, found = result[part]["seconds"], result[part]["after_to_before"]
        medians = [f"{seconds[side]['median']:.3f}" for side in ("before", "after")]
        name = f"step, {part}" if part in STEPS else part.replace("default", "recipe, defaults")
        rows.append((name, *medians, *(f"{found[f'pairs_{k}']:.3f}" for k in ("median", "min", "max"))))
    print(table(("CPU seconds", "before", "after", "ratio", "least", "greatest"), rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", metavar="BEFORE", help="a git revision or a folder")
    parser.add_argument("after", metavar="AFTER", nargs="?", help="the same; default: this working tree")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of every part")
    parser.add_argument("--steps", type=int, default=12, help="steps between the two runs of a difference")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=RESULTS / "step_cpu.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"repeats": options.repeats, "steps": options.steps}
    with open_checkouts(options.before, options.after) as (before, after, _):
        result |= {"before": before.name, "after": after.name}
        print(f"before: {before.name}, after: {after.name}", flush=True)
        for part in options.parts:
            try:
                result[part] = measure_pairs((before, after), part, options)
            except CommandError as error:
                raise SystemExit(f"{part}: {error}") from None
            save(result, options.out)
    show(result)


if __name__ == "__main__":
    main()

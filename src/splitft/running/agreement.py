"""Agreement: a client's owner agrees to the first job of a server, and is asked again when it changes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from splitft.common.files import write_atomically
from splitft.common.text import first_few, plain, short
from splitft.errors import PolicyError
from splitft.job.exposure import exposure
from splitft.job.settings import CostSettings
from splitft.job.told import OWN_KEYS, SERVER_KEYS, dotted
from splitft.running.headline import two_columns

AGREED = "agreed.json"  # in the client's folder
FIRST = "first"  # in place of a digest: the first job that comes
LAYERS = "layers with adapters"
_DIGITS = 20  # of a digest, in hexadecimal
_ASKED = ("network.aggregator", "cut_policy.method", "cut_policy.min_cut", "cut_policy.max_cut")
_NOT_ASKED = {
    "clients",
    "padding_free",
    "micro_batches",
    "redact",
}  # settled by the server, or none of a client's business
_SHOWN, _LONGEST = 80, 1000  # characters of a value in a message, of a line of a job


@dataclass
class Agreement:
    """The agreement of one client, kept in its folder.

    Attributes:
        accept: The digest of a job that is agreed to, `first`, or empty: ask on a terminal.
    """

    folder: Path
    accept: str
    console: Console

    def require(self, job: CostSettings, layers: Sequence[str], data: str) -> None:
        """Return where the owner agrees to a job, or has agreed to it before.

        Args:
            layers: Names of the layers with adapters.
            data: The data that the client reads, in words.

        Raises PolicyError, which names every key that has changed since, where the owner does not.
        """
        view = agreed_view(job, layers)
        digest, known = view_digest(view), self._known()
        if known == view:
            return
        changed = "" if known is None else changes(known, view)
        self.console.print(job_lines(job, view, digest, data))
        if changed:
            self.console.print(f"changed: {changed}", markup=False, highlight=False, style="bold yellow")
        if not self._agrees(digest, first=known is None):
            what = (
                f"has changed since its owner agreed ({changed})"
                if changed
                else "needs its owner's agreement"
            )
            first = ", or --accept first" if known is None else ""
            raise PolicyError(f"the server's job {digest} {what}: read it, then use --accept {digest}{first}")
        write_atomically(self.folder / AGREED, json.dumps({"digest": digest, "job": view}, indent=1))

    def _agrees(self, digest: str, *, first: bool) -> bool:
        if self.accept and (digest == self.accept or (first and self.accept == FIRST)):
            return True
        if not (self.console.is_terminal and sys.stdin.isatty()):
            return False
        return self.console.input("Agree to this job? [y/N] ", markup=False).strip().lower() in ("y", "yes")

    def _known(self) -> dict[str, Any] | None:
        """Return the job agreed to; None where there is none. Raises PolicyError where it cannot be read."""
        path = self.folder / AGREED
        if not path.exists():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            view: dict[str, Any] = dict(kept["job"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PolicyError(f"{path} cannot be read ({error}): remove it to be asked again") from None
        return view


def agreed_view(job: CostSettings, layers: Sequence[str]) -> dict[str, Any]:
    """Return what an owner agrees to: {key: value} of a job, without what only the server does."""
    left_out = SERVER_KEYS | OWN_KEYS | _NOT_ASKED
    view = {
        name: value
        for name, value in dotted(job).items()
        if name in _ASKED or name.partition(".")[0] not in left_out
    }
    return {**view, LAYERS: sorted(layers)}


def view_digest(view: Mapping[str, Any]) -> str:
    """Return the digest by which a job is agreed to."""
    return hashlib.sha256(json.dumps(view, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return each key whose value differs, with both values."""
    apart = [
        f"{key}: {_short(old.get(key))}, now {_short(new.get(key))}"
        for key in dict.fromkeys((*new, *old))
        if old.get(key) != new.get(key)
    ]
    return "; ".join(apart)


def job_lines(job: CostSettings, view: Mapping[str, Any], digest: str, data: str) -> Table:
    """Return a job as its client's owner should read it. view: as of `agreed_view`."""
    cuts = job.cuts if isinstance(job.cuts, int) else f"{min(job.cuts)} to {max(job.cuts)}"
    moves = "" if job.cut_policy.method == "fixed" else f", moved by cut_policy {job.cut_policy.method}"
    parts = f"{cuts} blocks of the front{moves}, {job.num_tail_blocks} of the tail"
    rows = job.per_device_train_batch_size * job.gradient_accumulation_steps
    attention = f", attention {job.attn_implementation}" if job.attn_implementation else ""
    if not job.splits_model:
        parts = "the whole model"
    at_home = job.labels == "client" or not job.splits_model
    seen = exposure(job, short(view["network.aggregator"] or "", _SHOWN) or None)
    lines = {
        "job": digest,
        "model": f"{job.model_name_or_path}, revision {job.model_revision}{attention}",
        "data": f"{data}, column {job.dataset_text_field}",
        "labels": "stay here" if at_home else "go to the server: they are the text",
        "held here": parts,
        "adapters": f"LoRA of rank {job.lora_r} on {first_few(view[LAYERS], 8)}",
        "work": f"{job.rounds} rounds of {job.local_steps} steps of {rows} rows, learning rate "
        f"{job.learning_rate:g}; an evaluation every {job.eval_every} rounds",
        "privacy": job.privacy or "not stated by the job",
        "sent": "; ".join(f"{one.what}, to {one.to}: readable {one.readable}" for one in seen.sent),
        "server reads": seen.sentences,
    }
    if job.dp.active:
        stated = f"epsilon {job.dp.epsilon:g}" if job.dp.epsilon else f"noise {job.dp.noise_multiplier:g}"
        lines["dp"] = f"{stated} for one row, of the adapter; losses and evaluation figures are exact"
    return two_columns({name: plain(text, _LONGEST) for name, text in lines.items()})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

"""Differential privacy around the rounds: its proof, the clients' ledgers, and what a run says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitft.common.files import write_atomically
from splitft.errors import JobError, ModelError, OutputError
from splitft.history import RoundRecord
from splitft.job.settings import TrainingSettings
from splitft.lora.dp.ledger import PrivacyLedger
from splitft.lora.dp.noise import digest_of, experiment_key, is_key, new_key
from splitft.lora.dp.plan import PrivacyPlan, Spent, plan_of
from splitft.model.split_model import SplitModel
from splitft.proof.row_gradients import prove_row_gradients

LEDGER = "privacy.json"  # in a client's folder
_LENGTHS = ("rounds", "max_steps", "num_train_epochs")  # a run that is extended stays the same job
COVERS = (
    "one training row of one client, added or removed, against readers of the adapter; losses and evaluation "
    "figures are not covered"
)


def check_private(settings: TrainingSettings, model: SplitModel) -> None:
    """Raise ModelError where a job asks for differential privacy, and rows have no gradients of their own."""
    if settings.dp.active and (problem := prove_row_gradients(model, settings.seed)):
        raise ModelError(f"the model cannot be trained with dp: {problem}")


def ledger_of(settings: TrainingSettings, client: str) -> PrivacyLedger | None:
    """Return the ledger of a client in this process, part of the run's state; None without privacy."""
    if not settings.dp.active:
        return None
    seed = settings.dp.noise_seed
    return PrivacyLedger(client, "" if seed is None else experiment_key(seed, client))


def kept_ledger(
    settings: TrainingSettings, client: str, folder: Path | None, data: str
) -> PrivacyLedger | None:
    """Return the ledger of a client with a folder of its own, written down there; None without privacy.

    It is not taken back with the client's state: a server that repeats rounds makes it grow. folder: None to
    have it in that state. data: digest of the client's rows. Raises JobError where the server knows the
    noise, and OutputError where the file cannot be used.
    """
    if not settings.dp.active:
        return None
    if settings.dp.noise_seed is not None:
        raise JobError("dp.noise_seed: the server knows it, and could take the noise off: leave it out")
    if folder is None:
        return PrivacyLedger(client)
    job = digest_of(_fixed(settings), data)
    known = _read(folder / LEDGER)
    key = known["key"] if known else new_key()

    def keep(values: dict[str, Any]) -> None:
        jobs = {**_read(folder / LEDGER).get("jobs", {}), job: values["trained"]}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({"key": key, "jobs": jobs}, indent=1)
        write_atomically(folder / LEDGER, text, mode=0o600, flushed=True)

    return PrivacyLedger(client, key, tuple(known.get("jobs", {}).get(job, ())), keep)


def _fixed(settings: TrainingSettings) -> dict[str, Any]:
    values = settings.model_dump(mode="json", include=set(TrainingSettings.model_fields))
    return {name: value for name, value in values.items() if name not in _LENGTHS}


def _read(path: Path) -> dict[str, Any]:
    """Return a client's file; empty where there is none. Raises OutputError where it is damaged."""
    if not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if not (is_key(kept["key"]) and all(isinstance(rounds, list) for rounds in kept["jobs"].values())):
            raise ValueError("no key, or no rounds")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{path} cannot be read ({error}), and the spent privacy budget stands there: put it back, or "
            "start with another --folder"
        ) from None
    return dict(kept)


def spent_by(settings: TrainingSettings, last: RoundRecord | None) -> Spent | None:
    """Return what counts the clients' steps, as of the last record; None without privacy."""
    if not settings.dp.active:
        return None
    clients = last.clients if last else {}
    return Spent(settings, {name: client.private_steps or 0 for name, client in clients.items()})


def plan_text(plan: PrivacyPlan, max_grad_norm: float) -> str:
    """Return a plan in one line."""
    return (
        f"noise of {plan.noise_multiplier:.4g} × {max_grad_norm:g} on the sum of a step, each of "
        f"{plan.rows:,} rows in it with probability {plan.sample_rate:.3g}; after {plan.steps:,} steps "
        f"epsilon {plan.epsilon(plan.steps):.3g} at delta {plan.delta:.2g}, for {COVERS}"
    )


def privacy_lines(settings: TrainingSettings, rows: Sequence[int]) -> dict[str, str]:
    """Return {heading: line} on the noise of a job's clients; empty without privacy.

    rows: training rows of each client, where they are known. Raises JobError where a plan does not fit them.
    """
    if not settings.dp.active:
        return {}
    plans = [plan_of(settings, count) for count in rows]
    if not plans:
        target = settings.dp.epsilon
        told = "follows from their rows" if target is None else f"is {target:g} at most after all rounds"
        return {"privacy": f"the epsilon of each client {told}, for {COVERS}"}
    worst = max(plans, key=lambda plan: plan.epsilon(plan.steps))
    whose = f"of {len(plans)} clients, the one with the largest epsilon: " if len(plans) > 1 else ""
    return {"privacy": whose + plan_text(worst, settings.max_grad_norm)}


def privacy_summary(
    settings: TrainingSettings, record: RoundRecord, rows: Mapping[str, int]
) -> dict[str, Any] | None:
    """Return what summary.json says of differential privacy; None without it.

    record: the last one. rows: training rows of the clients.
    """
    if not settings.dp.active:
        return None
    clients: dict[str, dict[str, Any]] = {}
    for name, count in rows.items():
        own = record.clients.get(name)
        if own is None or own.epsilon is None:
            continue
        plan = plan_of(settings, count)
        clients[name] = {
            "epsilon": own.epsilon,
            "delta": plan.delta,
            "noise_multiplier": plan.noise_multiplier,
            "rows": plan.rows,
            "sample_rate": plan.sample_rate,
            "steps": own.private_steps,
        }
    return {
        "epsilon": record.epsilon,
        "delta": max((own["delta"] for own in clients.values()), default=None),
        "max_grad_norm": settings.max_grad_norm,
        "noise_is_secret": settings.dp.noise_seed is None,
        "covers": COVERS,
        "clients": clients,
    }


def privacy_text(summary: Mapping[str, Any]) -> str:
    """Return a run's differential privacy in one sentence; empty without it. summary: of the run."""
    told = summary.get("privacy")
    if not isinstance(told, Mapping) or told.get("epsilon") is None:
        return ""
    if not told["noise_is_secret"]:
        return (
            f"Trained with the noise of epsilon {told['epsilon']:.3g} at delta {told['delta']:.2g}, but it "
            "follows from dp.noise_seed, which takes it off again: nothing is covered."
        )
    return (
        f"Example-level differential privacy: epsilon {told['epsilon']:.3g} at delta {told['delta']:.2g} "
        f"(the worst client's), for {told['covers']}. A text that stands in k rows has up to k times this "
        "epsilon, at a larger delta; runs on the same rows add up."
    )

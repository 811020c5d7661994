"""Substitutes for the hub's model and data set where the hub does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import constants

from splitft.common.quiet import quiet_datasets
from splitft.data.table import exists
from splitft.errors import JobError
from splitft.job import Job
from splitft.weights.hub import hub_answers, model_is_cached, offline
from splitft.weights.random_models import BUILTIN, RANDOM_MODELS, is_random


def resolve_sources(job: Job) -> tuple[Job, list[str]]:
    """Put model_fallback and dataset_fallback in place where they are needed.

    A fallback is taken only if the hub does not answer (within seconds; HF_HUB_OFFLINE counts as no answer)
    and its cache does not hold the whole model or the data set. A wrong name, a gated model and the like are
    answers: they stay errors. Returns the job to run, and a notice for each fallback taken and for random
    weights. Raises JobError where a fallback would itself need the hub.
    """
    changes: dict[str, Any] = {}
    notices: list[str] = []
    # The model.
    if job.model_fallback is not None:
        _require_local("model_fallback", job.model_fallback)
        name, revision = job.model_name_or_path, job.model_revision
        if not (_is_local(name) or hub_answers(name, revision) or model_is_cached(name, revision)):
            changes |= {"model_name_or_path": job.model_fallback, "model_revision": "main"}
            notices.append(
                f"{_silent_hub()}: model_fallback takes the place of {name}: this run uses "
                f"{job.model_fallback}"
            )
    # The data set.
    if job.dataset_fallback is not None and job.dataset_name is not None:
        _require_local("dataset_fallback", job.dataset_fallback)
        name = job.dataset_name
        answers = _is_local(name) or hub_answers(name, job.dataset_revision, kind="dataset")
        if not (answers or _data_are_cached(job)):
            changes |= {
                "dataset_name": job.dataset_fallback,
                "dataset_revision": "main",
                "dataset_config_name": None,
                "dataset_split": "train",
                "dataset_test_split": None,
            }
            notices.append(
                f"{_silent_hub()}: dataset_fallback takes the place of {name}: this run uses "
                f"{job.dataset_fallback}; its figures are not comparable with those of {name}"
            )
    # Random weights, whether asked for or fallen back to.
    resolved = job.model_copy(update=changes)
    if is_random(resolved.model_name_or_path):
        short = resolved.model_name_or_path.removeprefix(BUILTIN)
        notices.append(
            f"{resolved.model_name_or_path} has the shape of {RANDOM_MODELS[short]} and RANDOM WEIGHTS: "
            "parameters, bytes and times are those of that model; loss, perplexity and accuracy mean nothing"
        )
    return resolved, notices


def _data_are_cached(job: Job) -> bool:
    """Whether `datasets` can load them without the hub; what it loaded once lies ready, so this is quick."""
    import datasets

    with quiet_datasets(), offline():
        try:
            for split in filter(None, (job.dataset_split, job.dataset_test_split)):
                datasets.load_dataset(
                    str(job.dataset_name),
                    job.dataset_config_name,
                    split=split,
                    revision=job.dataset_revision,
                )
        except Exception:  # the hub client, datasets and pyarrow each raise their own
            return False
    return True


def _is_local(name: str) -> bool:
    """Whether a name needs no hub: built in, a folder that is there, or a path and no hub id."""
    path = Path(name).expanduser()
    return name.startswith((BUILTIN, ".", "~")) or path.is_absolute() or name.count("/") > 1 or exists(path)


def _require_local(key: str, name: str) -> None:
    if not _is_local(name):
        raise JobError(
            f"{key}: {name} would need the hub, too; name a built-in one (builtin:...) or an existing folder"
        )


def _silent_hub() -> str:
    if constants.HF_HUB_OFFLINE:
        return "the model hub is not asked (HF_HUB_OFFLINE is set), and its cache lacks what the job names"
    return f"the model hub ({constants.ENDPOINT}) does not answer, and its cache lacks what the job names"

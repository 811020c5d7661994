"""Objects from Python in the place of what a job names: a model, a tokenizer, data sets, functions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from splitft.data import ClientData
from splitft.data.objects import by_client, check_data_set
from splitft.errors import JobError, ModelError
from splitft.job.base_model import GIVEN_MODEL
from splitft.job.data import GIVEN_EVAL, GIVEN_TRAIN
from splitft.job.settings import EvaluationSettings
from splitft.running.predictions import HeldOutPredictions, check_functions, check_rows
from splitft.weights.kinds import causal_class


@dataclass(frozen=True)
class Given:
    """What `run` was given. None: as the job says."""

    model: Any = None
    tokenizer: Any = None
    train_dataset: Any = None
    eval_dataset: Any = None
    compute_metrics: Any = None
    preprocess_logits_for_metrics: Any = None

    def changes(self) -> dict[str, Any]:
        """Return the keys of the job that name these objects. Raises DataError, ModelError and JobError."""
        keys: dict[str, Any] = {}
        check_functions(self.compute_metrics, self.preprocess_logits_for_metrics)
        for key, data, name in (
            ("data_files", self.train_dataset, GIVEN_TRAIN),
            ("eval_files", self.eval_dataset, GIVEN_EVAL),
        ):
            if data is not None:
                check_data_set(name.removeprefix("object:"), data)
                keys[key] = dict.fromkeys(map(str, data), name) if by_client(data) else name
        if self.train_dataset is not None:
            keys |= {"dataset_name": None, "dataset_fallback": None, "dataset_revision": "main"}
        if self.model is not None:
            check_model(self.model)
            named = getattr(self.model.config, "_name_or_path", "")
            keys |= {"model_fallback": None, "model_name_or_path": named or GIVEN_MODEL}
        return keys

    def predictions(
        self, clients: Sequence[ClientData], settings: EvaluationSettings, words: int
    ) -> HeldOutPredictions | None:
        """Return what computes the figures of `compute_metrics`; None where there is no such function.

        words: of the vocabulary. Raises DataError without held-out rows, JobError where memory does not hold
        their logits.
        """
        compute, preprocess = self.compute_metrics, self.preprocess_logits_for_metrics
        if compute is None:
            return None
        check_rows(clients, words, reduced=preprocess is not None)
        return HeldOutPredictions(compute, preprocess, clients, settings.seed, settings.metrics)


def check_model(model: Any) -> None:
    """Raise ModelError where an object is no causal language model of transformers, or has adapters."""
    if not isinstance(model, PreTrainedModel):
        what = type(model).__name__
        hint = ": give its base model, and its adapter as adapter_name_or_path" if "Peft" in what else ""
        raise ModelError(f"model must be a causal language model of transformers, not a {what}{hint}")
    wanted = causal_class(model.config)[0]
    if not isinstance(model, wanted):
        raise ModelError(
            f"model must be a {wanted.__name__}, which has the output head, not a {type(model).__name__}"
        )
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ModelError("model has LoRA layers already: give the base model")


def check_dtype(model: Any, stated: torch.dtype | None) -> None:
    """Raise JobError where a job states another dtype than the model that it is given has."""
    if stated is not None and model.dtype != stated:
        raise JobError(f"dtype: the model given has {model.dtype}: leave dtype and bf16 out of the job")


def frozen_copy(model: Any, *, own_weights: bool) -> Any:
    """Return a copy of a model in eval mode, frozen, so that the caller's keeps its layers and its flags.

    own_weights: copy the weights, too; False: both models hold the same ones, which no run changes.
    """
    shared: dict[int, Any] = {}
    if not own_weights:
        shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    copied = copy.deepcopy(model, shared)
    return copied.requires_grad_(False).eval()

"""Try the split on every causal and vision-language type of transformers, each safe from the others.

As a program: one of the processes that check, which reads a type a line and answers with its report in JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils import logging

from splitft.common.text import error_line
from splitft.errors import ModelError
from splitft.proof.split import SplitReport, check_split

SECONDS_A_TYPE = 60.0
_SECONDS_TO_START = 300.0  # importing torch and transformers on a slow, busy machine
_READY = "ready"
_QWEN4_INDEXER = {
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 4,
}
# What these types' checkpoints state and their default configuration leaves out.
_WITH_MROPE = ("paddleocr_vl", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl")
_WITH_GLM_MROPE = ("glm46v", "glm4v", "glmga")
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_MROPE = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
_GLM_MROPE = {**_MROPE, "mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5}
_COMPLETED: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 4},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": _ROPE}}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "dbrx": {"attn_config": {"kv_n_heads": 8, "clip_qkv": 8.0, "rope_theta": 10_000.0}},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": (["conv", "conv", "full_attention", "conv"] * 8)},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen4_exp": {"text_config": _QWEN4_INDEXER},
    "qwen4_exp_text": _QWEN4_INDEXER,
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    **{name: {"text_config": {"rope_parameters": _MROPE}} for name in _WITH_MROPE},
    **{name: {"text_config": {"rope_parameters": _GLM_MROPE}} for name in _WITH_GLM_MROPE},
    "glm4v_moe": {"text_config": {"rope_parameters": _GLM_MROPE, "head_dim": 128}},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": {**_MROPE, "mrope_section": [22, 22, 20]}}},
    "glm_ocr": {"text_config": {"rope_parameters": {**_MROPE, "mrope_section": [8, 12, 12]}}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [3, 1]}},
    "step3p7": {"text_config": {"sliding_window": 512}},
    "xmod": {"default_language": "en_XX"},
}


def causal_types() -> list[str]:
    """Every model type for which the installed transformers has a causal LM, or a vision-language model."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES})


def default_config(model_type: str) -> PreTrainedConfig:
    """The default configuration of a model type, completed where its own defaults do not make a model."""
    return CONFIG_MAPPING[model_type](**_COMPLETED.get(model_type, {}))


def check_all_architectures(
    progress: Callable[[SplitReport, int, int], None] | None = None,
    model_types: Iterable[str] | None = None,
    seconds_a_type: float = SECONDS_A_TYPE,
) -> list[SplitReport]:
    """Check the default configuration of every type (or of these), shrunk, at every cut.

    A type that crashes its process, or takes longer than `seconds_a_type`, counts as one that could not be
    built, and the rest goes on in a new process.

    progress: called with each report, the number of types done, and the number of all.
    """
    names = list(causal_types() if model_types is None else model_types)
    reports: list[SplitReport] = []
    worker: _Worker | None = None
    try:
        for name in names:
            worker = worker or _Worker()
            answer, reason = worker.ask(name, seconds_a_type)
            if answer:
                values = json.loads(answer)
                report = SplitReport(**{**values, "cuts": tuple(values["cuts"])})
            else:
                worker = None
                report = SplitReport.refused(reason, name, built=False)
            reports.append(report)
            if progress is not None:
                progress(report, len(reports), len(names))
    finally:
        if worker is not None:
            worker.stop()
    return reports


class _Worker:
    """A process that checks one type after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "splitft.proof.every_type"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        if self.ask("", _SECONDS_TO_START)[0] != _READY:
            raise ModelError(
                "the checking process does not start: does `python -c 'import transformers'` work?"
            )

    def ask(self, model_type: str, seconds: float) -> tuple[str, str]:
        """Return the answer on one type; an empty one, and the reason, where the process is gone or too slow.

        Without a type: the answer at the start.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        killed_at = threading.Timer(seconds, self._process.kill)
        started = time.monotonic()
        killed_at.start()
        with contextlib.suppress(OSError):  # it may have died since its last answer
            self._process.stdin.write(model_type + "\n" if model_type else "")
            self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        killed_at.cancel()
        if answer:
            return answer, ""
        late = time.monotonic() - started >= seconds
        status = self.stop()
        return "", f"took longer than {seconds:.0f} s" if late else f"ended its process with status {status}"

    def stop(self) -> int:
        """End the process; return its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # an end of its own has its own status
            self._process.wait(0.5)
        self._process.kill()
        self._process.communicate()
        return self._process.returncode


def main() -> None:
    """Answer until the input ends. Output of models goes to stderr, out of the answers' way."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the models are tiny
    logging.set_verbosity_error()
    print(_READY, file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(_check_type(line.strip()))), file=answers, flush=True)


def _check_type(model_type: str) -> SplitReport:
    try:
        return replace(check_split(default_config(model_type)), model_type=model_type)
    except ModelError as error:
        return SplitReport.refused(str(error), model_type)
    except Exception as error:  # a foreign configuration may raise anything
        reason = f"no model could be built ({error_line(error)})"
        return SplitReport.refused(reason, model_type, built=False)


if __name__ == "__main__":
    main()

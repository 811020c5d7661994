"""`use_liger_kernel`: Liger's fused kernels in place of a model's norms, rotary embeddings and the like."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from splitft.common.text import one_line
from splitft.errors import JobError, ModelError
from splitft.job import Job


def apply_kernels(job: Job, model: Any) -> None:
    """Put the job's kernels into a model on its device, in place, before its split is proven.

    The loss stays ours, which drops tokens without a label before the head. Liger changes transformers'
    modules: models of this type that the process builds later have its kernels, too. Raises JobError where
    the device or the package is not there, ModelError where Liger does not know the model's type.
    """
    if not job.use_liger_kernel:
        return
    if model.device.type != "cuda":
        raise JobError(
            f"use_liger_kernel needs a CUDA device, and the model is on {model.device.type}: "
            "set use_liger_kernel: false"
        )
    if find_spec("liger_kernel") is None:
        raise JobError("use_liger_kernel needs the package: pip install 'splitft[liger]'")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance as apply
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as KNOWN

    if model.config.model_type not in KNOWN:
        raise ModelError(
            f"Liger has no kernels for {model.config.model_type}, but for {', '.join(sorted(KNOWN))}: "
            "set use_liger_kernel: false"
        )
    try:
        apply(model, fused_linear_cross_entropy=False, cross_entropy=False)
    except Exception as error:  # a transformers release that it does not know
        raise ModelError(
            f"Liger's kernels do not fit this model ({type(error).__name__}: {one_line(error)}): "
            "set use_liger_kernel: false"
        ) from error

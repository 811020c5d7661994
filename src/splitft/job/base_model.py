"""Keys of the base model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from splitft.job.sections import Name, PathName, Strict, advanced, key

GIVEN_MODEL = "object:model"  # stands in a job for a model object that has no name


class ModelSettings(Strict):
    """The base model, and how a process holds it."""

    model_name_or_path: PathName = Field(
        description="A model folder, a hub id, or builtin:smollm2-135m (the demo model)."
    )
    model_revision: Name = key("main", "Branch, tag or commit on the hub.")
    model_fallback: PathName | None = key(
        None,
        "A built-in model or a folder to use instead where the hub does not answer, e.g. "
        "builtin:gpt2-random (GPT-2's shape, random weights).",
    )
    adapter_name_or_path: PathName | None = key(None, "A PEFT LoRA adapter folder to continue from.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = key(
        None, "Of the frozen base, as of from_pretrained. Default: float32; a quantised base keeps its own."
    )
    bf16: bool = key(False, "Hold the frozen base in bfloat16, as dtype: bfloat16; adapters stay in float32.")
    gradient_checkpointing: bool = key(False, "Recompute blocks in the backward pass.")
    loss_chunk_tokens: Annotated[int, Field(ge=0)] = advanced(
        128,
        "Tokens that head and cross-entropy take at a time, none without a label: the "
        "full logits are never held. The same loss, which a matrix library may add up in another order. 0: "
        "the model's own loss, over the full logits.",
    )
    attn_implementation: Name | None = advanced(
        None, "As of from_pretrained. Unset: its choice, in bfloat16 on a CPU with a faster backward."
    )
    use_cpu: bool = key(False, "Stay on the CPU even where an accelerator is present.")

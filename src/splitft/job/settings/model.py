"""Settings of the base model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from splitft.job.sections import Name, PathName, Strict, advanced


class ModelSettings(Strict):
    """The base model, and how a process holds it."""

    model_name_or_path: PathName = Field(
        description="A model folder, a hub id, or builtin:smollm2-135m (the demo model)."
    )
    model_revision: Name = Field(default="main", description="Branch, tag or commit on the hub.")
    model_fallback: PathName | None = Field(
        default=None,
        description="A built-in model or a folder to use instead where the hub does not answer, e.g. "
        "builtin:gpt2-random (GPT-2's shape, random weights).",
    )
    adapter_name_or_path: PathName | None = Field(
        default=None, description="A PEFT LoRA adapter folder to continue from."
    )
    bf16: bool = Field(
        default=False, description="Hold the frozen base in bfloat16; adapters stay in float32."
    )
    gradient_checkpointing: bool = Field(default=False, description="Recompute blocks in the backward pass.")
    loss_chunk_tokens: Annotated[int, Field(ge=0)] = advanced(
        128,
        "Tokens that head and cross-entropy take at a time, none without a label: the "
        "full logits are never held. The same loss, which a matrix library may add up in another order. 0: "
        "the model's own loss, over the full logits.",
    )
    attn_implementation: Name | None = advanced(
        None, "As of from_pretrained. Unset: its choice, in bfloat16 on a CPU with a faster backward."
    )
    use_cpu: bool = Field(default=False, description="Stay on the CPU even where an accelerator is present.")

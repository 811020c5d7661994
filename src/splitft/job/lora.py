"""Keys of the adapters: their rank, scaling, start, and the layers that have one."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from splitft.job.sections import Count, Name, Names, Strict, advanced, key

BlockIndex = Annotated[int, Field(ge=0)]
MOVING = ("pissa", "olora")  # values of init_lora_weights that take a part out of the base weights


class LoraSettings(Strict):
    """The adapters."""

    lora_r: Count = key(16, "Rank of the adapter of every block.")
    lora_r_cut: Count | None = key(
        None, "Rank of the two blocks at a client's cut (paper: 8 of 16). Default: lora_r."
    )
    lora_r_cut_side: Literal["both", "client"] = advanced(
        "both", "Blocks with lora_r_cut: both (paper), or the client's last one alone."
    )
    lora_alpha: float = key(32.0, "Adapter scaling is lora_alpha / lora_r in every block.", gt=0)
    use_rslora: bool = key(False, "Rank-stabilised LoRA: the scaling is lora_alpha / sqrt(lora_r).")
    use_dora: bool = key(False, "DoRA: a trained magnitude of every output beside A and B.")
    lora_dropout: float = key(0.0, "Dropout on the adapter's input.", ge=0, lt=1)
    lora_target_modules: Name | Names | None = key(
        None,
        "Module names, whole or the end of a full name; all-linear; or a regular expression that the full "
        "name must match, as peft takes it. Default: peft's choice for the model type.",
    )
    lora_target_parameters: Names | None = key(
        None,
        "Weights of fused experts with LoRA, e.g. [mlp.experts.down_proj]: a pair for every expert.",
    )
    layers_to_transform: BlockIndex | Annotated[list[BlockIndex], Field(min_length=1)] | None = key(
        None, "Blocks with adapters, counted from 0. Default: all."
    )
    exclude_modules: Name | Names | None = key(
        None, "Layers without an adapter: names, or a regular expression, as lora_target_modules."
    )
    init_lora_weights: bool | Name = key(
        True,
        "Start of new adapters, as peft's. true: A uniform, B zero. gaussian: A normal, B zero. orthogonal: "
        "both from halves of one orthogonal matrix. false: both random. pissa, pissa_niter_N, olora: a part "
        "of the base weights, which the base then lacks.",
    )

    @property
    def lora_scaling(self) -> float:
        """The factor of every adapter, whatever the rank of its block."""
        return self.lora_alpha / (math.sqrt(self.lora_r) if self.use_rslora else self.lora_r)

    @property
    def moves_base(self) -> bool:
        """Whether new adapters start as a part of the base weights, which the base then lacks."""
        return isinstance(self.init_lora_weights, str) and self.init_lora_weights.startswith(MOVING)

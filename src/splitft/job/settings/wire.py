"""Settings of the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from splitft.job.sections import Name, advanced, key
from splitft.job.settings.training import SplitSettings


class WireSettings(SplitSettings):
    """Codecs, and what the server remembers of samples."""

    activation_cache_gb: float = advanced(
        1.0,
        "With train_front: no, memory of the server for each client's activations; samples beyond it go up "
        "every time. With codec delta, memory of either end for them; samples beyond it go whole every time.",
        ge=0,
    )
    codec: Name | None = key(
        None,
        "How activations cross the cut: none, bf16, int8 (a quarter of float32), int4, int3, "
        "int2, delta (int4 the first time that a sample crosses, then what has changed), or a codec "
        "registered from Python. Default: none in one process, int8 over a network.",
    )
    delta_bits: Annotated[int, Field(ge=1, le=4)] = advanced(
        1, "With codec delta, bits of a value of what has changed."
    )
    gradient_codec: Name | None = key(
        None, "The same for their gradients, which bear fewer bits. Default: as codec; int2 with delta."
    )
    eval_codec: Name | None = advanced(
        None, "How activations of held-out rows cross the cut. Default: bf16; none with codec none."
    )

    @property
    def caches_activations(self) -> bool:
        """Whether the server keeps what each training sample's activations are."""
        return not self.train_front and self.activation_cache_gb > 0 and self.splits_model

    @property
    def sends_differences(self) -> bool:
        """Whether client and server keep what each training sample's activations were."""
        return self.codec == "delta" and self.splits_model

"""Imports the large libraries at once, as a command starts."""

from __future__ import annotations

import gc
import sys


def import_libraries(data: bool = True) -> None:
    """Import what a command computes with, and what reads data, with the garbage collector at rest.

    It would look through all that they define again and again, for a third of the time, and find nothing.
    What is there afterwards is not looked through later, either.
    """
    if "torch" in sys.modules and "transformers" in sys.modules:
        return
    gc.disable()
    try:
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers.modeling_utils
        import transformers.models.auto.modeling_auto  # noqa: F401

        if data:
            import datasets  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()

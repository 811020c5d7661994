"""Imports the large libraries at once, as a command starts."""

from __future__ import annotations

import gc
import sys


def import_libraries() -> None:
    """Import the libraries that a command computes with, with the garbage collector at rest.

    The collector would look through their definitions again and again, for a third of the time, and find
    nothing. It does not look through them later, either. `datasets`, which takes a seventh of a start, is
    imported where a data set of a hub or a parquet file is read.
    """
    if "torch" in sys.modules and "transformers" in sys.modules:
        return
    gc.disable()
    try:
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers.modeling_utils
        import transformers.models.auto.modeling_auto  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()

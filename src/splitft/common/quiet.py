"""Libraries without progress bars, notices and log lines."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Silence `datasets` inside the block and restore its settings after it."""
    import datasets

    level = datasets.logging.get_verbosity()
    bars = datasets.is_progress_bar_enabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it also logs the errors that it raises
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def quiet_libraries() -> None:
    """Silence transformers' progress bars, notices, and warnings about names that change between versions."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # said aloud: no warning about forks
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Newer versions rename it; the old name is the one that all supported versions know.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)

"""Keeps other libraries' bars and notices out of what a person sees."""

from __future__ import annotations

import os
import warnings


def quiet_libraries() -> None:
    """Silence transformers' progress bars, notices, and warnings about names that change between versions."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # said aloud: no warning about forks
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Newer versions rename it; the old name is the one that all supported versions know.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)

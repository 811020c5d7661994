"""Public text for a server's inverter: the shipped one, or a file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from splitft.data.table import split_text
from splitft.errors import DataError

ROW_TOKENS, LEAST_TOKENS = 64, 1000


def public_text(file: Path | None) -> str:
    """Return a public text. file: UTF-8; None: prose of this project's documentation, under its licence.

    Raises DataError where it cannot be read.
    """
    if file is None:
        return (files("splitft.tools.audit") / "public.txt").read_text(encoding="utf-8")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--public {file}: cannot be read as UTF-8 text: {error}") from None


def public_rows(tokenizer: PreTrainedTokenizerBase, text: str) -> list[Tensor]:
    """Return the (tokens,) ids of each paragraph of a text, of 2 to ROW_TOKENS tokens.

    Raises DataError where it is too short to make an inverter.
    """
    rows = [
        torch.tensor(tokenizer(paragraph)["input_ids"][:ROW_TOKENS])
        for _, paragraph in split_text(text, "paragraph")
    ]
    rows = [row for row in rows if len(row) > 1]
    if (tokens := sum(map(len, rows))) < LEAST_TOKENS:
        raise DataError(f"the public text has {tokens} tokens, and {LEAST_TOKENS} are needed at least")
    return rows

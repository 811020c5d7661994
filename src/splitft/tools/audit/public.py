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
TEXTS = ("public.txt", "licences.txt")


def public_text(file: Path | None) -> str:
    """Return a public text. file: UTF-8; None: prose of this project's pages, and verbatim texts of licences.

    Raises DataError where it cannot be read.
    """
    if file is None:
        folder = files("splitft.tools.audit")
        return "\n\n".join((folder / name).read_text(encoding="utf-8") for name in TEXTS)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--public {file}: cannot be read as UTF-8 text: {error}") from None


def public_rows(tokenizer: PreTrainedTokenizerBase, text: str) -> list[Tensor]:
    """Return the (tokens,) ids of a text's paragraphs, longer ones in several rows of ROW_TOKENS.

    Raises DataError where it is too short to make an inverter.
    """
    rows: list[Tensor] = []
    for _, paragraph in split_text(text, "paragraph"):
        rows += torch.split(torch.tensor(tokenizer(paragraph)["input_ids"]), ROW_TOKENS)
    rows = [row for row in rows if len(row) > 1]
    if (tokens := sum(map(len, rows))) < LEAST_TOKENS:
        raise DataError(f"the public text has {tokens} tokens, and {LEAST_TOKENS} are needed at least")
    return rows

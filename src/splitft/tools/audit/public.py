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


def public_rows(tokenizer: PreTrainedTokenizerBase, file: Path | None) -> list[Tensor]:
    """Return the (tokens,) ids of each paragraph of a public text, of 2 to ROW_TOKENS tokens.

    file: UTF-8 text; None: prose of this project's own documentation. Raises DataError where it cannot be
    read, or is too short to make an inverter.
    """
    if file is None:
        text = (files("splitft.tools.audit") / "public.txt").read_text(encoding="utf-8")
    else:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--public {file}: cannot be read as UTF-8 text: {error}") from None
    rows = [
        torch.tensor(tokenizer(paragraph)["input_ids"][:ROW_TOKENS])
        for _, paragraph in split_text(text, "paragraph")
    ]
    rows = [row for row in rows if len(row) > 1]
    if (tokens := sum(map(len, rows))) < LEAST_TOKENS:
        raise DataError(f"--public {file}: {tokens} tokens of text, and {LEAST_TOKENS} are needed at least")
    return rows

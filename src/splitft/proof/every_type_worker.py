"""One process of `check_all`: reads a model type a line, answers its report as one line of JSON."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import asdict, replace

import torch
from transformers.utils import logging

from splitft.common.text import error_line
from splitft.proof.split import SplitReport, check_split
from splitft.proof.types import default_config

READY = "ready"


def main() -> None:
    """Answer until the input ends. Output of models goes to stderr, out of the answers' way."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the models are tiny
    logging.set_verbosity_error()
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(check_type(line.strip()))), file=answers, flush=True)


def check_type(model_type: str) -> SplitReport:
    """Check the default configuration of one type; failures are in the report."""
    try:
        return replace(check_split(default_config(model_type)), model_type=model_type)
    except Exception as error:  # a foreign configuration may raise anything
        reason = f"no model could be built ({error_line(error)})"
        return SplitReport.refused(reason, model_type, built=False)


if __name__ == "__main__":
    main()

"""Generation tasks on a run's held-out rows or on a file of rows, for each client and for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from splitft.data.references import Reference, all_references, held_out_references
from splitft.errors import DataError, JobError
from splitft.job.sections import PartitionConfig
from splitft.job.settings import DataSettings
from splitft.model.config import text_config
from splitft.running.generation import continue_prompts
from splitft.tools.evaluate.scores import score
from splitft.tools.evaluate.target import Target

ALL = "all"


@dataclass(frozen=True)
class GenerationOptions:
    """max_samples: rows of each client. data: rows to use in the place of the run's; name: their client."""

    max_new_tokens: int = 64
    max_samples: int = 50
    batch_size: int = 8
    data: Path | None = None
    name: str | None = None


def load_references(
    options: GenerationOptions, target: Target, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[Reference]]:
    """Return {client: references}, held out as in the run; of a file without a client's name all its rows.

    Raises JobError where there are no data to take, DataError where they cannot be used.
    """
    # A run's job.yaml states every key: one that has its default must not decide on the kind of rows.
    run, most = target.data or DataSettings(), options.max_samples
    stated = {key: getattr(run, key) for key in DataSettings.model_fields}
    stated = {key: value for key, value in stated.items() if value != DataSettings.model_fields[key].default}
    if options.data is None:
        if target.data is None:
            raise JobError(
                "--generate on an adapter or a model needs rows: give --data FILE, or the output_dir of a run"
            )
        if run.dataset_name is None and run.data_files is None:
            raise JobError(
                f"the data of {target.run} are its clients' and not here: run this at the site, with the "
                "adapter and --data FILE --name CLIENT"
            )
        found = held_out_references(DataSettings(**stated), tokenizer, most)
    else:
        if run.eval_set and options.name is not None:
            raise JobError(
                f"the run had an evaluation set of its own ({run.eval_set}): its training held "
                "nothing of --data out. Give that set with --data FILE, without --name"
            )
        own = stated | {"dataset_name": None, "data_files": str(options.data), "partition": PartitionConfig()}
        own |= {"eval_files": None, "dataset_test_split": None}
        if options.name is None:
            found = {options.data.name: all_references(DataSettings(**own), tokenizer, most)}
        else:
            own |= {"data_files": {options.name: str(options.data)}, "clients": 1}
            own["partition"] = PartitionConfig(method="files")
            found = held_out_references(DataSettings(**own), tokenizer, most)
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        raise DataError("no row has both a prompt and a text that follows it")
    return found


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    references: Mapping[str, Sequence[Reference]],
    options: GenerationOptions,
) -> dict[str, list[str]]:
    """Return {client: texts}, decoded greedily. Prompts lose their first tokens where the model's end nears.

    Raises JobError where max_new_tokens leave no room for a prompt.
    """
    positions = getattr(text_config(model), "max_position_embeddings", None)
    room = positions - options.max_new_tokens if isinstance(positions, int) and positions > 0 else None
    if room is not None and room < 1:
        raise JobError(
            f"--max-new-tokens {options.max_new_tokens}: the model takes {positions} tokens in all"
        )
    texts: dict[str, list[str]] = {}
    for name, rows in references.items():
        prompts = [row.prompt if room is None else row.prompt[-room:] for row in rows]
        texts[name] = continue_prompts(
            model,
            tokenizer,
            prompts,
            max_new_tokens=options.max_new_tokens,
            batch_size=options.batch_size,
        )
    return texts


def scores_of(
    texts: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[Reference]]
) -> dict[str, dict[str, float]]:
    """Return {client: {metric: value}}, and over the rows of all clients under "all"."""
    wanted = {name: [row.text for row in rows] for name, rows in references.items()}
    found = {name: score(own, wanted[name]) for name, own in texts.items()}
    if len(found) > 1:
        pooled = [list(chain.from_iterable(by_name[n] for n in texts)) for by_name in (texts, wanted)]
        found = {ALL: score(*pooled)} | found
    return found

"""Held-out rows as prompts and references, to compare what a model generates with what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from splitft.common.seeds import numpy_generator
from splitft.data.columns import Message
from splitft.data.prepare import prepare
from splitft.data.records import Records, Sample, read_eval_records, read_records
from splitft.data.tokenize import render
from splitft.errors import DataError
from splitft.job.settings import DataSettings

_ALL = 10**9  # tokens: no row is that long


@dataclass(frozen=True)
class Reference:
    """A prompt in tokens, and the text that was written after it."""

    prompt: list[int]
    text: str


def held_out_references(
    job: DataSettings, tokenizer: PreTrainedTokenizerBase, most: int | None = None
) -> dict[str, list[Reference]]:
    """Return {client: references} of the rows that training holds out, or of the job's evaluation set.

    most: rows of each client, a seeded choice; None: all. Packed rows count one by one. Clients without
    held-out rows are left out. Raises DataError where rows are plain text, which has no reference.
    """
    records = read_eval_records(job) if job.eval_set else read_records(job)
    _check_kind(records)
    if job.packing:  # whole rows, dealt as packed ones are: by their full length
        job = job.model_copy(update={"packing": False, "max_length": _ALL})
    found: dict[str, list[Reference]] = {}
    for client in prepare(job, tokenizer).clients:
        numbers = list(dict.fromkeys(int(number) for number in client.eval.records))
        if found_here := _references(records, _some(numbers, most, job.seed, client.name), tokenizer):
            found[client.name] = found_here
    return found


def all_references(
    job: DataSettings, tokenizer: PreTrainedTokenizerBase, most: int | None = None
) -> list[Reference]:
    """Return the references of all rows that the job names, none of which is trained on. most: as above."""
    records = read_records(job)
    _check_kind(records)
    return _references(records, _some(range(len(records)), most, job.seed, "data"), tokenizer)


def _check_kind(records: Records) -> None:
    if records.kind == "text":
        raise DataError(
            "the rows are plain text, which has no reference to compare a generated text with: give rows of "
            "prompt and completion, or of messages, with --data FILE"
        )


def _some(numbers: Sequence[int], most: int | None, seed: int, name: str) -> list[int]:
    """A seeded choice of at most `most` of the numbers, in their order."""
    if most is None or len(numbers) <= most:
        return list(numbers)
    chosen = numpy_generator(seed, "references", name).permutation(len(numbers))[:most]
    return [numbers[i] for i in sorted(chosen.tolist())]


def _references(
    records: Records, numbers: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> list[Reference]:
    found: list[Reference] = []
    for number in numbers:
        parts = _parts(records.samples[number])
        if parts is None:
            continue
        before, text = parts
        plain = isinstance(before, str)
        prompt = (
            before if isinstance(before, str) else render(tokenizer, before, records.places[number], True)
        )
        ids = tokenizer(prompt, add_special_tokens=plain, verbose=False)["input_ids"]
        if ids:
            found.append(Reference(list(ids), text))
    return found


def _parts(sample: Sample) -> tuple[str | list[Message], str] | None:
    """Split a sample into its prompt and the text to reach; None for a conversation without an answer."""
    if len(sample) == 2 and isinstance(sample[1], str):
        return sample[0], sample[1]
    messages: list[Message] = [message for part in sample for message in part]
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    text = messages[answers[-1]].get("content") if answers else None
    return (messages[: answers[-1]], text) if isinstance(text, str) and answers[-1] else None

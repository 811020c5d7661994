"""Formats of other people's rows: Alpaca and ShareGPT are converted, preference data are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from splitft.data import columns as col
from splitft.data.table import Table
from splitft.errors import DataError

ALPACA, INPUT, SHAREGPT = ("instruction", "output"), "input", "conversations"
PREFERENCE = ("chosen", "rejected")
FOREIGN_COLUMNS = {*ALPACA, INPUT, SHAREGPT, *PREFERENCE, "system"}
ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names; others stay as they are
# Names that prompts and completions have elsewhere, for advice.
PAIRS = (("question", "answer"), ("query", "response"), ("instruction", "response"), (INPUT, "output"))

# The template that the rows were published with (Stanford Alpaca), with and without an input.
_TASK = "Below is an instruction that describes a task"
_WITH_INPUT = (
    f"{_TASK}, paired with an input that provides further context. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_ALONE = (
    f"{_TASK}. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


def convert(table: Table, text_field: str, explicit: bool) -> tuple[Table, str]:
    """Return a table with the columns of a kind of `columns.COLUMNS`, and a note of the conversion, if any.

    A table of a known kind stays as it is, but for ShareGPT's names within messages. Raises DataError for
    preference data, with the columns to train on.
    """
    names = table.columns.keys()
    known = col.find_kind(table, text_field, explicit)
    if known is None and names >= set(ALPACA):
        return _from_alpaca(
            table
        ), "Alpaca rows (instruction, input, output) become prompt + completion, by its template"
    if known is None and SHAREGPT in names:
        return _from_sharegpt(table, SHAREGPT), f"{SHAREGPT} (ShareGPT) become messages of user and assistant"
    if known == "messages" and any(_is_sharegpt(value) for value in table.columns["messages"]):
        return _from_sharegpt(table, "messages"), "from and value (ShareGPT) become role and content"
    if known is None and names >= set(PREFERENCE):
        raise DataError(f"{table.name}: {_preference_advice(table)}")
    return table, ""


def pair_advice(table: Table) -> str:
    """Return the columns to rename where a table has prompts and completions under other names."""
    for prompt, completion in PAIRS:
        if table.columns.keys() >= {prompt, completion}:
            return f"rename {prompt} to prompt and {completion} to completion, or "
    return ""


def _from_alpaca(table: Table) -> Table:
    prompts, completions = [], []
    for row in range(len(table)):
        instruction, output = (col.check_text(table, name, row) for name in ALPACA)
        context = col.check_text(table, INPUT, row) if INPUT in table.columns else ""
        template = _WITH_INPUT if context.strip() else _ALONE
        blank = not (instruction + context).strip()
        prompts.append("" if blank else template.format(instruction=instruction, input=context))
        completions.append(output)
    return replace(table, columns={**table.columns, "prompt": prompts, "completion": completions})


def _from_sharegpt(table: Table, column: str) -> Table:
    """Give messages role and content, and put the text of a column `system`, if there is one, before them."""
    conversations = []
    for row, value in enumerate(table.columns[column]):
        turns = col.as_list(value)
        if isinstance(turns, list) and turns:
            system = col.check_text(table, "system", row) if "system" in table.columns else ""
            first = [{"role": "system", "content": system}] if system else []
            turns = [*first, *map(_turn, turns)]
        conversations.append(turns)
    return replace(table, columns={**table.columns, "messages": conversations})


def _turn(turn: Any) -> Any:
    if not isinstance(turn, dict) or "from" not in turn:
        return turn
    others = {key: value for key, value in turn.items() if key not in ("from", "value")}
    role = turn["from"]
    return {
        "role": ROLES.get(role, role) if isinstance(role, str) else role,
        "content": turn.get("value"),
        **others,
    }


def _is_sharegpt(value: Any) -> bool:
    turns = col.as_list(value)
    return isinstance(turns, list) and any(isinstance(turn, dict) and "from" in turn for turn in turns)


def _preference_advice(table: Table) -> str:
    text = (
        "chosen and rejected are preference data, and SplitFT trains on texts alone; to train on the chosen "
        "answers, "
    )
    if "prompt" in table.columns:
        return f"{text}rename chosen to completion"
    lists = any(isinstance(col.as_list(value), list) for value in table.columns["chosen"])
    return text + ("rename chosen to messages" if lists else "set dataset_text_field=chosen")

"""Tokens and labels of text, prompt + completion and messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from splitft.data import Rows
from splitft.data.records import read_records
from splitft.data.tokenize import Dropped, tokenize
from splitft.errors import DataError
from splitft.job import Job
from tiny import CHAT_TEMPLATE, CHAT_TEMPLATE_WITH_MASK, EOS, EOS_ID, tiny_tokenizer

USER = {"role": "user", "content": "what is the law?"}
ASSISTANT = {"role": "assistant", "content": "the rule of the people"}


def encode(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = 100,
    completion_only_loss: bool | None = None,
) -> tuple[Rows, Dropped]:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    records = read_records(Job(model_name_or_path="unused", data_files=str(file)))
    return tokenize(records, np.arange(len(records)), tokenizer, max_length, completion_only_loss)


def spans(rows: Rows, tokenizer: PreTrainedTokenizerBase, row: int = 0) -> tuple[str, str]:
    """Text without loss and text with loss."""
    ids, labels = rows.input_ids[row], rows.labels[row]
    assert ids.dtype == labels.dtype == np.int32
    assert np.array_equal(labels[labels != -100], ids[labels != -100])
    return tokenizer.decode(ids[labels == -100]), tokenizer.decode(ids[labels != -100])


def test_text_ends_with_one_eos_and_all_of_it_has_loss(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    rows, dropped = encode(tmp_path, [{"text": "the people"}, {"text": f"the law{EOS}"}], tokenizer)
    assert [tokenizer.decode(ids) for ids in rows.input_ids] == [f"the people{EOS}", f"the law{EOS}"]
    assert all(np.array_equal(a, b) for a, b in zip(rows.input_ids, rows.labels, strict=True))
    assert dropped == Dropped()
    assert rows.records.tolist() == [0, 1]


def test_truncation_keeps_the_start_and_the_full_length(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    text = "the people of the united states"
    whole = [*tokenizer(text)["input_ids"], EOS_ID]
    rows, dropped = encode(tmp_path, [{"text": text}, {"text": "the"}], tokenizer, max_length=4)
    assert rows.input_ids[0].tolist() == whole[:4]
    assert rows.full_lengths.tolist() == [len(whole), 2]
    assert dropped == Dropped(truncated=1)
    rows, dropped = encode(tmp_path, [{"text": text}], tokenizer, max_length=None)
    assert rows.input_ids[0].tolist() == whole


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("what is the law?", " the rule"), ("what is the law? ", "the rule"), ("", "the rule"), ("Q:\n", "the")],
)
def test_completions_alone_have_loss(tmp_path: Path, prompt: str, completion: str) -> None:
    tokenizer = tiny_tokenizer()
    row = [{"prompt": prompt, "completion": completion}]
    rows, _ = encode(tmp_path, row, tokenizer)
    before, after = spans(rows, tokenizer)
    assert before + after == prompt + completion + EOS
    assert after.strip() == completion.strip() + EOS
    whole, _ = encode(tmp_path, row, tokenizer, completion_only_loss=False)
    assert spans(whole, tokenizer) == ("", prompt + completion + EOS)


def test_a_token_across_the_border_belongs_to_the_completion(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    assert len(tokenizer("the")["input_ids"]) == 1
    rows, _ = encode(tmp_path, [{"prompt": "a th", "completion": "e law"}], tokenizer)
    assert spans(rows, tokenizer) == ("a", f" the law{EOS}")


def test_a_tokenizer_without_offsets_counts_the_prompt(tmp_path: Path) -> None:
    tokenizer = ByT5Tokenizer()
    rows, _ = encode(tmp_path, [{"prompt": "ab", "completion": " cd"}], tokenizer)
    ids, labels = rows.input_ids[0], rows.labels[0]
    assert tokenizer.decode(ids[labels != -100], skip_special_tokens=True).strip() == "cd"
    assert ids[-1] == tokenizer.eos_token_id != ids[-2]


def test_rows_that_train_nothing_are_dropped_and_counted(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    pairs = [{"prompt": "a" * 20, "completion": "b"}, {"prompt": "a", "completion": "b"}]
    rows, dropped = encode(tmp_path, pairs, tokenizer, max_length=10)
    assert (len(rows), rows.records.tolist(), dropped) == (1, [1], Dropped(without_loss=1))
    tokenizer.eos_token = None
    rows, dropped = encode(tmp_path, [{"text": "the"}, {"text": "the law"}], tokenizer)
    assert (len(rows), dropped) == (1, Dropped(short=1))


def test_messages_follow_the_chat_template(tmp_path: Path) -> None:
    row = [{"messages": [USER, ASSISTANT]}]
    tokenizer = tiny_tokenizer(CHAT_TEMPLATE)
    text = "user: what is the law?\nassistant: the rule of the people\n"
    rows, _ = encode(tmp_path, row, tokenizer)
    assert spans(rows, tokenizer) == ("", text)  # the template sets its own end
    marked = tiny_tokenizer(CHAT_TEMPLATE_WITH_MASK)
    rows, _ = encode(tmp_path, row, marked, completion_only_loss=True)
    before, after = spans(rows, marked)
    assert before + after == text
    assert after.strip() == "the rule of the people"
    rows, _ = encode(tmp_path, row, marked)
    assert spans(rows, marked) == ("", text)


def test_conversational_prompt_and_completion(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(CHAT_TEMPLATE)
    rows, _ = encode(tmp_path, [{"prompt": [USER], "completion": [ASSISTANT]}], tokenizer)
    before, after = spans(rows, tokenizer)
    assert before + after == "user: what is the law?\nassistant: the rule of the people\n"
    assert after.strip() == "the rule of the people"


def test_what_the_tokenizer_cannot_do_is_said(tmp_path: Path) -> None:
    chat = [{"messages": [USER, ASSISTANT]}]
    with pytest.raises(DataError, match="tokenizer has no chat template"):
        encode(tmp_path, chat, tiny_tokenizer())
    with pytest.raises(DataError, match=r"marks the assistant's words with \{% generation %\}"):
        encode(tmp_path, chat, tiny_tokenizer(CHAT_TEMPLATE), completion_only_loss=True)
    with pytest.raises(DataError, match="the rows are plain text"):
        encode(tmp_path, [{"text": "a b"}], tiny_tokenizer(), completion_only_loss=True)
    strict = tiny_tokenizer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match=r"rows.jsonl, line 1: .* refuses the messages: roles must alternate"):
        encode(tmp_path, chat, strict)


def test_more_rows_than_one_batch_keep_their_order(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    rows, _ = encode(tmp_path, [{"text": f"row {i}"} for i in range(2300)], tokenizer)
    assert [tokenizer.decode(ids[:-1]) for ids in rows.input_ids] == [f"row {i}" for i in range(2300)]

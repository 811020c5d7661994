"""Redaction: rows are a function of what is not redacted, and of nothing else."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from splitft import register_redactor
from splitft.data import Prepared, prepare
from splitft.data.redaction.redaction import make_redaction, neutral_token
from splitft.data.redaction.spans import MARK, cut_out, marked_spans, merged, pattern_finder, term_finder
from splitft.data.rows import IGNORE
from splitft.errors import DataError, JobError
from splitft.job import Job
from splitft.job.redaction import RedactConfig
from splitft.testing import check_redactor
from tiny import CHAT_TEMPLATE_WITH_MASK, tiny_tokenizer

SECRETS = ("Ada Lovelace", "Bo", "Wilhelmina Alexandra Cornelia van der Heuvel", "Ø")
REDACT = {"patterns": [r"\bid-\d+\b"]}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(CHAT_TEMPLATE_WITH_MASK)


def prepared(
    folder: Path, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, **keys: Any
) -> Prepared:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    defaults = {"max_length": 24, "clients": 2, "partition": {"method": "length_dirichlet"}}
    return prepare(Job(model_name_or_path="unused", data_files=str(file), **{**defaults, **keys}), tokenizer)


def rows_of(found: Prepared) -> list[Any]:
    """Everything that a client computes with, as plain values."""
    return [
        (client.name, *([one.tolist() for one in part] for part in (side.input_ids, side.labels)),
         side.full_lengths.tolist(), side.records.tolist())
        for client in found.clients for side in (client.train, client.eval)
    ]  # fmt: skip


def with_secret(kind: str, secret: str, number: int) -> dict[str, Any]:
    """A row of each kind with a secret; its own words differ from those of other rows."""
    text = f"the people of {number} ask {secret}, and {secret} for the law {number}"
    if kind == "text":
        return {"text": text}
    if kind == "pair":
        return {"prompt": f"who of {number} is {secret}?", "completion": f" the {secret} of the law {number}"}
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"no {secret}"}]}


@pytest.mark.parametrize("kind", ["text", "pair", "messages"])
@pytest.mark.parametrize("how", ["patterns", "terms_file", "function"])
@pytest.mark.parametrize("keys", [{}, {"packing": True}, {"truncation_mode": "chunk"}], ids=str)
def test_rows_do_not_depend_on_what_is_redacted(
    kind: str, how: str, keys: dict[str, Any], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Another secret, of another length, gives the same rows: ids, labels, lengths, order and partition."""
    (tmp_path / "terms").write_text("\n".join(SECRETS))
    register_redactor("secrets of the test", pattern_finder(["|".join(SECRETS)]))
    redact = {
        "patterns": {"patterns": ["|".join(SECRETS)]}, "terms_file": {"terms_file": str(tmp_path / "terms")},
        "function": {"function": "secrets of the test"},
    }[how]  # fmt: skip
    found = []
    for secret in SECRETS:
        rows = [with_secret(kind, secret, number) for number in range(30)]
        found.append(rows_of(prepared(tmp_path, rows, tokenizer, redact=redact, **keys)))
    assert all(one == found[0] for one in found[1:])
    rows = [with_secret(kind, SECRETS[0], number) for number in range(30)]
    assert rows_of(prepared(tmp_path, rows, tokenizer, **keys)) != found[0]


@pytest.mark.parametrize("kind", ["text", "pair"])
def test_spans_of_a_row_s_own(kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A span may cross from the prompt into its completion."""
    found = []
    for secret in ("Ada", "Wilhelmina"):
        rows = []
        for number in range(20):
            before, after = f"the people of {number} ask {secret}", f"{secret} for the law {number}"
            span = [[len(before) - len(secret), len(before) + len(secret)], [3, 3]]
            row = {"text": before + after} if kind == "text" else {"prompt": before, "completion": after}
            rows.append(row | {"hide": span if number % 2 else json.dumps(span)})
        keys = {"redact": {"spans_column": "hide"}, "completion_only_loss": None}
        found.append(prepared(tmp_path, rows, tokenizer, **keys))
    assert rows_of(found[0]) == rows_of(found[1])
    neutral = neutral_token(tokenizer)
    for client in found[0].clients:
        for ids, labels in zip(client.train.input_ids, client.train.labels, strict=True):
            assert 1 <= (ids == neutral).sum() <= 2 and (labels[ids == neutral] == IGNORE).all()
            assert (labels != IGNORE).any()


@pytest.mark.parametrize(("value", "problem"), [
    ([[0, 9999]], r"\[0, 9999\] does not lie in a text of"), ([[5, 2]], r"\[5, 2\] does not lie"),
    ([["a", 2]], "no pair of integers"), ("[[1, 2]", "must hold"), ([1, 2], "must hold"), (7, "must hold"),
])  # fmt: skip
def test_wrong_spans_are_refused_by_their_row(
    value: Any, problem: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"text": f"the law {i} of the people", "hide": None} for i in range(9)]
    rows[6]["hide"] = value
    keys: dict[str, Any] = {"redact": {"spans_column": "hide"}}
    with pytest.raises(DataError, match=rf"line 7: column 'hide' .*{problem}") as caught:
        prepared(tmp_path, rows, tokenizer, **keys)
    assert "people" not in str(caught.value)
    with pytest.raises(DataError, match=r"no column 'hidden' \(redact\.spans_column\)"):
        prepared(tmp_path, rows, tokenizer, redact={"spans_column": "hidden"})
    talks = [{"messages": [{"role": "user", "content": f"law {i}"}], "hide": [[0, 1]]} for i in range(9)]
    with pytest.raises(DataError, match="the rows are messages"):
        prepared(tmp_path, talks, tokenizer, **keys)
    alpaca = [{"instruction": f"law {i}", "output": "of all", "hide": [[0, 1]]} for i in range(9)]
    with pytest.raises(DataError, match=r"redact\.spans_column counts characters of the text"):
        prepared(tmp_path, alpaca, tokenizer, **keys)


def test_tokens_that_are_rare_at_a_client_are_in_no_row(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Counted over what the client trains on and holds out; a row that is drawn twice counts once."""
    rng = np.random.default_rng(0)
    words = [*["law", "people", "nation", "good"] * 9, "xylem", "Quiz", "jazz"]
    rows = [{"text": " ".join(rng.choice(words, size=8))} for _ in range(60)]
    keys: dict[str, Any] = {"partition": {"method": "iid", "samples_per_client": 40}, "max_length": 64}
    plain = prepared(tmp_path, rows, tokenizer, **keys)
    made = prepared(tmp_path, rows, tokenizer, redact={"rare_tokens": 12}, **keys)
    neutral, hidden = neutral_token(tokenizer), 0
    for before, after in zip(plain.clients, made.clients, strict=True):
        distinct = {
            (side, int(record)): ids
            for side, own in (("train", before.train), ("eval", before.eval))
            for record, ids in zip(own.records, own.input_ids, strict=True)
        }
        counts = Counter(int(token) for ids in distinct.values() for token in ids)
        rare = {token for token, count in counts.items() if count <= 12} - set(tokenizer.all_special_ids)
        assert rare
        hidden += sum(counts[token] for token in rare)
        for side in (after.train, after.eval):
            for ids, labels in zip(side.input_ids, side.labels, strict=True):
                assert not rare & set(ids.tolist())
                assert (labels[ids == neutral] == IGNORE).all()
                assert not ((ids[1:] == neutral) & (ids[:-1] == neutral)).any()  # one for each run
    assert [f"{hidden:,} tokens that stand at most 12 times" in text for text in made.notices] == [True]


def test_a_row_of_which_nothing_is_left_is_its_end_alone(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = [{"text": f"the law of {i}" if i % 3 else "id-12345"} for i in range(30)]
    found = prepared(tmp_path, rows, tokenizer, redact=REDACT)
    assert found.report.dropped_without_loss == 0 == found.report.dropped_short
    lengths = [len(ids) for client in found.clients for ids in client.train.input_ids]
    assert min(lengths) == 2 and len(lengths) > 20  # a neutral token, and the end of the text


def test_the_notice_counts_what_was_redacted(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = [{"text": f"the law id-{i:04} of the people"} for i in range(20)]
    found = prepared(tmp_path, rows, tokenizer, redact=REDACT)
    removed = sum(len(tokenizer(f" id-{i:04}")["input_ids"]) for i in range(20))
    left = sum(side.tokens for client in found.clients for side in (client.train, client.eval))
    share = removed / (left - 20 + removed)
    (notice,) = [text for text in found.notices if text.startswith("redacted")]
    assert notice.startswith(f"redacted: {removed:,} tokens of 20 spans ({100 * share:.1f} % of the rows)")
    assert "id-" not in notice
    assert not [text for text in prepared(tmp_path, rows, tokenizer).notices if "redacted" in text]


@given(st.text(st.sampled_from("ab é\n"), max_size=30), st.data())
def test_what_is_cut_out_is_in_the_pieces_alone(text: str, data: st.DataObject) -> None:
    places = st.integers(0, len(text))
    spans = [tuple(sorted(pair)) for pair in data.draw(st.lists(st.tuples(places, places), max_size=5))]
    joined = merged(text, spans)  # type: ignore[arg-type]
    assert all(a[1] < b[0] for a, b in pairwise(joined))
    hidden = {i for start, end in joined for i in range(start, end)}
    assert hidden >= {i for start, end in spans for i in range(start, end)}
    left, pieces = cut_out(text, joined)
    parts = left.split(MARK)
    assert "".join(parts) == "".join(c for i, c in enumerate(text) if i not in hidden)
    assert "".join(a + b for a, b in zip(parts, [*pieces, ""], strict=True)) == text


def test_terms_are_whole_words_in_any_case_and_the_longest_wins() -> None:
    find = term_finder(["Ada", "ada lovelace", "St. Mary's", "  "])
    text = "ADA\nLovelace met Adam at st. mary's; ada left"
    assert [text[start:end] for start, end in find(text)] == ["ADA\nLovelace", "st. mary's", "ada"]
    assert marked_spans(None) == marked_spans("") == [] and marked_spans("[[1, 2]]") == [(1, 2)]


def test_a_slow_tokenizer_and_one_with_a_mask_token() -> None:
    slow = ByT5Tokenizer()
    found = make_redaction(RedactConfig(patterns=["x"]), slow)
    assert found is not None and len(found.tokenizer) == len(slow) + 1
    masked = tiny_tokenizer()
    masked.add_special_tokens({"mask_token": "<mask>"})
    assert neutral_token(masked) == masked.mask_token_id
    assert make_redaction(RedactConfig(), slow) is None


def test_the_contract_of_a_redactor() -> None:
    check_redactor(pattern_finder([r"\d+"]), "room 12 of 345", hidden=["12", "345"])
    with pytest.raises(AssertionError, match="leaves a part of '345'"):
        check_redactor(pattern_finder(["12"]), "room 12 of 345", hidden=["345"])
    with pytest.raises(AssertionError, match=r"redactor under test failed: .*\[0, 99\] does not lie"):
        check_redactor(lambda text: [(0, 99)], "room 12")
    calls: list[str] = []
    with pytest.raises(AssertionError, match="other spans in the same text"):
        check_redactor(lambda text: [(0, len(calls))] if text and not calls.append(text) else [], "room 12")


def test_what_cannot_be_read_or_is_not_registered(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = [{"text": f"the law {i}"} for i in range(9)]
    with pytest.raises(DataError, match=r"redact\.terms_file .*none cannot be read: No such file"):
        prepared(tmp_path, rows, tokenizer, redact={"terms_file": str(tmp_path / "none")})
    with pytest.raises(JobError, match="no redactor is called nobody"):
        prepared(tmp_path, rows, tokenizer, redact={"function": "nobody"})
    with pytest.raises(JobError, match=r"redact\.patterns: '\(' is no regular expression"):
        prepared(tmp_path, rows, tokenizer, redact={"patterns": ["("]})

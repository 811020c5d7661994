"""The harness of the proofs: rows without special tokens, and differences that no broken number hides in."""

from __future__ import annotations

import math

import pytest
import torch

from splitft.errors import ModelError
from splitft.proof.harness import difference, differences, make_rows, problem_of, tolerance
from tiny import EOS_ID, PAD_ID, tiny_model


def test_rows_are_padded_on_the_right_and_hold_no_special_token() -> None:
    rows = make_rows(tiny_model("llama"), (9, 4, 1), seed=3)
    assert rows.valid.sum(1).tolist() == [9, 4, 1] and rows.valid[:, 0].all()
    text = rows.pick(rows.input_ids)
    assert len(text) == 14 and not {EOS_ID, PAD_ID} & set(text.tolist())
    assert torch.equal(rows.labels == -100, ~rows.valid)
    assert (rows.with_gaps().labels[0] == -100).sum() == 2 and (rows.labels[0] != -100).all()


def test_equal_tensors_do_not_differ_and_others_by_their_length() -> None:
    one = torch.tensor([3.0, 4.0])
    assert difference(one, one.clone()) == 0
    assert difference(one, torch.tensor([3.0, 2.0])) == pytest.approx(0.5)
    assert difference(one, torch.tensor([3.0, 2.0]), order=2) == pytest.approx(0.4)
    assert difference(torch.zeros(2), torch.tensor([0.0, 0.5])) == 0.5


def test_a_tensor_of_rounding_errors_counts_as_a_millionth_of_the_longest() -> None:
    big, small = torch.tensor([1e6]), torch.tensor([1e-9])
    assert differences([(big, big), (small, -small)])[1] == pytest.approx(2e-9)
    assert difference(small, -small) == pytest.approx(2)


@pytest.mark.parametrize("found", [[1.0, math.nan], [1.0, math.inf], [1.0], [1.0, 2.0, 3.0]])
def test_what_is_no_number_or_of_another_shape_is_infinitely_far(found: list[float]) -> None:
    wanted = torch.tensor([1.0, 2.0])
    for order in (2, math.inf):
        assert difference(wanted, torch.tensor(found), order) == math.inf
        assert max(differences([(wanted, wanted), (torch.tensor(found), wanted)], order)) == math.inf


def test_none_stands_for_zeros() -> None:
    zeros, one = torch.zeros(2), torch.ones(2)
    assert differences([(None, None), (None, zeros), (zeros, None)]) == [0, 0, 0]
    assert differences([(None, one), (one, None)]) == [math.inf, math.inf]


def test_tolerance_grows_with_the_rounding_of_the_dtype() -> None:
    assert tolerance(torch.float32, 1e-5, 8) == 1e-5
    assert tolerance(torch.bfloat16, 1e-5, 8) == pytest.approx(8 * 2**-7)


def test_errors_of_a_model_are_a_problem_and_an_interrupt_is_not() -> None:
    def fails(error: BaseException) -> str:
        raise error

    assert problem_of(lambda: "") == ""
    assert problem_of(lambda: fails(ValueError("no\npixels")), "cut 1: ") == "cut 1: ValueError: no pixels"
    assert problem_of(lambda: fails(ModelError("no blocks"))) == "no blocks"
    with pytest.raises(KeyboardInterrupt):
        problem_of(lambda: fails(KeyboardInterrupt()))

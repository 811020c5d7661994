"""A model that is no next-token model is refused, for the true reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from splitft.proof.every_type import default_config
from splitft.proof.next_token import try_next_token
from splitft.proof.split import check_split
from splitft.weights.shrink import shrink_config, tiny_random_model
from tiny import tiny_model


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlnet"])
def test_a_model_that_sees_later_tokens_splits_and_does_not_train(model_type: str) -> None:
    report = check_split(default_config(model_type), [1])
    assert report.splits and not report.ok
    assert report.verdict == "splits only" and report.reason.startswith("a token sees later ones")


@pytest.mark.parametrize("model_type", ["bart", "pegasus", "whisper"])
def test_a_model_whose_loss_is_that_of_the_token_itself_does_not_train(model_type: str) -> None:
    report = check_split(default_config(model_type), [1])
    assert report.verdict == "splits only" and "not that of the next token" in report.reason


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "gemma3_text"])
def test_decoders_are_next_token_models(model_type: str) -> None:
    assert try_next_token(tiny_model(model_type)) == ""
    assert try_next_token(tiny_model(model_type).bfloat16()) == ""


def test_the_same_type_as_a_decoder_trains() -> None:
    config = shrink_config(default_config("bert"))
    config.is_decoder = True
    assert try_next_token(tiny_random_model(config)) == ""


def test_a_planted_fault_is_found() -> None:
    """A label that is not shifted, and a token that sees a later one."""
    model: Any = tiny_model("llama")
    unshifted, plain = copy.deepcopy(model), torch.nn.functional.cross_entropy

    def loss(logits: Tensor, labels: Tensor, vocab_size: int, **_: Any) -> Tensor:
        return plain(logits.flatten(0, 1), labels.flatten())

    unshifted.loss_function = loss
    assert "not that of the next token" in try_next_token(unshifted)

    def mix(_module: Any, _args: Any, output: Tensor) -> Tensor:
        return output + output.roll(-1, dims=1)

    model.lm_head.register_forward_hook(mix)
    assert "a token sees later ones" in try_next_token(model)

"""check_split proves exact splits, asks for real ids where they are needed, and refuses the rest."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, LlamaForCausalLM, PreTrainedModel

from cases import rest_slow
from splitft.errors import ModelError
from splitft.model.window import find_blocks
from splitft.proof.every_type import default_config
from splitft.proof.split import check_split, map_cuts, valid_cuts
from tiny import MODEL_TYPES, tiny_config, tiny_model
from versions import known_types


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gpt_neo", "llama", "qwen3", "gemma3_text"])
def test_the_six_are_exact_with_dummy_ids(model_type: str) -> None:
    report = check_split(default_config(model_type))
    assert report.ok, report.reason
    assert report.verdict == "exact" and report.server_inputs == "dummy_ids"
    assert report.max_logit_difference == 0 and report.max_gradient_difference <= 1e-6
    assert report.tail_exact and report.num_blocks == default_config(model_type).num_hidden_layers
    assert report.cuts == tuple(range(1, len(report.cuts) + 1)) and len(report.cuts) >= 3


@pytest.mark.parametrize("model_type", ["mixtral", "bloom", "mamba", "bart", "xlnet", "qwen3_5_text"])
def test_other_families_are_exact(model_type: str) -> None:
    report = check_split(default_config(model_type))
    found = report.splits, report.server_inputs, report.max_logit_difference
    assert found == (True, "dummy_ids", 0), report.reason


@pytest.mark.parametrize(
    "model_type", rest_slow(known_types("zamba2", "gemma4_text", "inkling2_text", "deepseek_v4"), 2)
)
def test_blocks_that_read_the_text_again_need_the_real_ids(model_type: str) -> None:
    report = check_split(default_config(model_type))
    assert (report.ok, report.server_inputs) == (True, "input_ids"), report.reason
    assert report.verdict == "exact with real ids" and report.max_logit_difference == 0


def test_labels_at_home_refuse_a_server_that_needs_the_text() -> None:
    report = check_split(default_config("zamba2"), tail_blocks=1, labels="client")
    assert not report.ok and "labels: server" in report.reason
    assert check_split(default_config("llama"), tail_blocks=1, labels="client").ok


@pytest.mark.parametrize("model_type", known_types("xlm", "hy_v4", "zaya"))
def test_silently_wrong_splits_are_refused(model_type: str) -> None:
    report = check_split(default_config(model_type))
    assert not report.ok and report.verdict == "refused" and report.reason


def test_a_refusal_names_the_cuts_that_are_exact() -> None:
    """Gemma 3n's last blocks reuse keys and values of earlier ones: a cut before those is exact."""
    config = default_config("gemma3n_text")
    report = check_split(config)
    assert not report.ok and re.search(r"Cuts that are exact: 1, 2", report.reason)
    early = check_split(config, [2])
    assert early.ok and early.server_inputs == "input_ids" and early.cuts == (2,)


def test_it_is_told_whether_clients_can_be_computed_together() -> None:
    assert check_split(tiny_config("llama")).together == ""
    with_alibi = CONFIG_MAPPING["bloom"](n_layer=24, hidden_size=64, n_head=4, vocab_size=99)
    found = check_split(with_alibi, [1, 2]).together
    assert found and "RuntimeError" in found
    assert check_split(tiny_model("llama")).together is None  # a run proves it on the model itself, if asked


@pytest.mark.parametrize(("model_type", "why"), [
    ("llama", ""),
    ("gemma3_text", ""),  # a sliding window of fewer tokens than a sample
    ("opt", "activations differ"),
    ("bloom", "activations differ"),
    ("mamba", "activations differ"),
    ("gpt_neo", "rows longer than the model's positions: RuntimeError"),
])  # fmt: skip
def test_it_is_told_whether_samples_may_share_a_row(model_type: str, why: str) -> None:
    found = check_split(default_config(model_type), [1, 2]).padding_free
    assert found is not None and why in found and bool(found) == bool(why)


def test_samples_that_share_a_row_are_proven_on_the_model_itself() -> None:
    model = tiny_model("llama")
    assert check_split(model, [1, 3]).padding_free is None  # not asked for
    before, training = {n: p.clone() for n, p in model.state_dict().items()}, modes(model)
    assert check_split(model, [1, 3], padding_free=True).padding_free == ""
    assert check_split(model, [1], tail_blocks=1, labels="client", padding_free=True).padding_free == ""
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes(model) == training and all(p.grad is None for p in model.parameters())
    report = check_split(tiny_model("opt"), [1], padding_free=True)
    assert report.ok and report.padding_free and report.padding_free.startswith("cut 1: ")


def test_a_model_whose_samples_see_each_other_a_little_is_refused() -> None:
    """As little as bfloat16 rounds: only another text in the row shows it."""
    model = tiny_model("llama").bfloat16()
    assert check_split(model, [1], padding_free=True).padding_free == ""

    def leaking(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output + 0.1 * output[:, :1] if output.shape[0] == 1 else output

    find_blocks(model)[2][2].mlp.register_forward_hook(leaking)
    found = check_split(model, [1], padding_free=True).padding_free
    assert found and "a sample sees another one of its row" in found


def test_a_type_without_a_small_copy_is_not_guessed() -> None:
    report = check_split(default_config("musicgen"))
    assert not report.ok and not report.built and report.verdict == "could not be built"
    assert "check_split(model" in report.reason


# --- a loaded model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_model_is_proven_and_left_alone(model_type: str) -> None:
    model = tiny_model(model_type).train()
    find_blocks(model)[2][1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training, state = modes(model), torch.get_rng_state()
    report = check_split(model, [1, 3])
    assert report.ok and report.cuts == (1, 3) and report.num_blocks == 4, report.reason
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes(model) == training and torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_adapters_is_proven(dtype: torch.dtype) -> None:
    model = get_peft_model(
        tiny_model("llama").to(dtype), LoraConfig(r=4, target_modules=["q_proj", "up_proj"])
    )
    report = check_split(model, [1, 2], tail_blocks=1, labels="client")
    assert report.ok and report.tail_exact and report.max_gradient_difference == 0, report.reason


def test_a_frozen_model_is_proven_by_the_gradient_at_the_cut() -> None:
    model = tiny_model("gpt2").requires_grad_(False)
    assert check_split(model, [2]).ok
    assert not any(p.requires_grad for p in model.parameters())


# --- models that are wrong on purpose


class Wrapped(nn.Module):
    """A block in which something is done before or after."""

    def __init__(self, block: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.block = block
        self.before = before
        self.after = after

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        if self.before is not None:
            hidden_states = self.before(hidden_states)
        out = self.block(hidden_states, **kwargs)
        return out if self.after is None else self.after(out)


def wrapped(index: int, before: Any = None, after: Any = None, model: Any = None) -> PreTrainedModel:
    model = model or tiny_model("llama")
    blocks = find_blocks(model)[2]
    blocks[index] = Wrapped(blocks[index], before, after)
    return model


def test_a_block_that_rereads_an_earlier_one_is_refused() -> None:
    kept: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        kept[:] = [hidden]
        return hidden

    model = wrapped(3, before=lambda hidden: hidden + kept[0], model=wrapped(0, after=keep))
    report = check_split(model)
    assert not report.ok and "logits differ" in report.reason and report.max_logit_difference > 0


class Rereading(LlamaForCausalLM):
    """Adds the token embeddings again before its head, as some hybrids do between blocks."""

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        again = self.model.embed_tokens(input_ids)
        hook = self.model.norm.register_forward_pre_hook(lambda _, args: (args[0] + again,))
        try:
            return super().forward(input_ids=input_ids, **kwargs)
        finally:
            hook.remove()


def test_rereading_the_ids_is_found() -> None:
    model = Rereading(tiny_config("llama")).eval()
    report = check_split(model)
    assert (report.ok, report.server_inputs) == (True, "input_ids"), report.reason


def test_activations_that_do_not_reach_the_output_are_refused() -> None:
    model = wrapped(3, before=lambda hidden: torch.ones_like(hidden) + 0 * hidden)
    report = check_split(model, [1])
    assert not report.ok and "no gradient comes back to what crosses the cut" in report.reason


def test_a_gradient_that_is_lost_on_its_way_is_found() -> None:
    """Logits and loss are those of the whole model; nothing would train below the cut."""
    report = check_split(wrapped(3, before=lambda hidden: hidden.detach()), [1])
    assert not report.ok and "no gradient comes back to what crosses the cut" in report.reason


def test_a_block_that_does_nothing_proves_nothing() -> None:
    model = tiny_model("llama")
    block = find_blocks(model)[2][2]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    report = check_split(model, [2])
    assert not report.ok and "block 2 can be left out" in report.reason


def test_padding_that_reaches_real_tokens_is_refused() -> None:
    model = wrapped(2, before=lambda hidden: hidden + hidden.mean(dim=1, keepdim=True))
    report = check_split(model, [1])
    assert not report.ok and "padding changes" in report.reason


def test_a_model_that_is_not_deterministic_is_refused() -> None:
    model = wrapped(1, before=lambda hidden: hidden + 0.01 * torch.randn_like(hidden))
    report = check_split(model, [1])
    assert not report.ok and "two identical runs" in report.reason


def test_a_model_that_answers_nan_is_refused() -> None:
    model = wrapped(1, before=lambda hidden: hidden / 0)
    report = check_split(model, [1])
    assert not report.ok and "not finite" in report.reason


def test_a_model_that_fails_is_refused_with_its_own_words() -> None:
    def fail(_: Tensor) -> Tensor:
        raise ValueError("no pixels were given")

    report = check_split(wrapped(1, before=fail), [1])
    assert not report.ok and "no pixels were given" in report.reason


# --- cuts


@pytest.mark.parametrize(
    ("cuts", "options", "message"),
    [
        ([4], {}, "choose cuts from 1 to 3"),
        ([0, 2], {}, "cut 0 is not possible"),
        ([], {}, "cut"),
        ([3], {"tail_blocks": 1}, "1 are tail blocks; choose cuts from 1 to 2"),
        ([1], {"tail_blocks": 3}, "has no cut"),
        ([1], {"labels": "client"}, "at least one tail block"),
    ],
)
def test_impossible_cuts_raise(cuts: list[int], options: dict[str, Any], message: str) -> None:
    for subject in (tiny_model("llama"), tiny_config("llama")):
        with pytest.raises(ModelError, match=message):
            check_split(subject, cuts, **options)


def test_cuts_map_to_the_copy_from_the_nearer_end() -> None:
    assert map_cuts([1, 3], 30, 4) == (1, 3)
    assert map_cuts([29], 30, 4) == (3,)
    assert map_cuts([15], 30, 4) == (1, 2, 3)
    assert map_cuts([2], 4, 4) == (2,)
    assert valid_cuts(None, 4, 1) == (1, 2) and valid_cuts([3, 1, 3], 4) == (1, 3)

"""Faults that `check` must find, planted in a model or in the code that trains and exports a part of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config

from splitft.model import slots, window
from splitft.proof.every_type import default_config
from splitft.proof.parts import parts_problem
from splitft.proof.split import SplitReport, check_split


def check() -> SplitReport:
    return check_split(LlamaConfig(), [2])


def test_nothing_is_found_without_a_fault() -> None:
    report = check()
    assert report.ok and report.verdict == "exact"
    assert (report.parts, report.padding_free, report.left_out) == ("", "", {})


def test_the_gradient_of_a_block_that_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """In train mode alone: the forward, and a backward in eval mode, are right."""
    forward = LlamaForCausalLM.get_decoder(tiny_llama()).layers[0].__class__.forward

    def lossy(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, hidden_states, *args, **kwargs)
        return out.detach() + hidden_states - hidden_states.detach() if self.training else out

    monkeypatch.setattr(LlamaForCausalLM.get_decoder(tiny_llama()).layers[0].__class__, "forward", lossy)
    report = check()
    assert not report.ok and "no adapter of block 0, 1, 2, 3 gets a gradient" in report.reason


def test_the_gradient_of_a_block_that_the_split_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block before the cut answers without its graph when it runs in parts."""
    call = window.Plan.call

    def lossy(self: Any, block: Any, index: int, args: Any, kwargs: Any) -> Any:
        out = call(self, block, index, args, kwargs)
        last = index == self.stop - 1 and self.start == 0
        return out.detach().requires_grad_() if last and isinstance(out, torch.Tensor) else out

    monkeypatch.setattr(window.Plan, "call", lossy)
    report = check()
    assert not report.ok and "gradients differ" in report.reason


def test_a_mask_that_is_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A causal mask that is one column off lets a token see the next."""
    from transformers.models.llama import modeling_llama

    def shifted(config: Any, inputs_embeds: Any, attention_mask: Any = None, **_: Any) -> Any:
        rows, size = inputs_embeds.shape[:2]
        valid = torch.ones(rows, size) if attention_mask is None else attention_mask
        return torch.ones(size, size, dtype=torch.bool).tril(1) & valid.bool()[:, None, None, :]

    monkeypatch.setattr(modeling_llama, "create_causal_mask", shifted)
    report = check()
    assert not report.ok and "sees later ones" in report.reason


def test_a_label_that_is_not_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    def own_token(logits: Any, labels: Any, vocab_size: int, **_: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.float().view(-1, vocab_size), labels.view(-1))

    monkeypatch.setattr(LlamaForCausalLM, "loss_function", staticmethod(own_token), raising=False)
    report = check()
    assert not report.ok and report.splits and "not that of the next token" in report.reason


def test_an_adapter_that_is_lost_at_export(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = slots.peft_tensors

    def lossy(*args: Any) -> dict[str, torch.Tensor]:
        return {name: t for name, t in tensors(*args).items() if ".1.self_attn.v_proj." not in name}

    monkeypatch.setattr("splitft.proof.targets.peft_tensors", lossy)
    report = check_split(LlamaConfig(), [2])
    assert "stock peft does not load" in report.left_out["v_proj"] and report.targets == ("q_proj",)


def test_an_experts_adapter_that_is_lost_at_export(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = slots.peft_tensors
    config = default_config("qwen3_moe")
    experts = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    assert check_split(config, [2]).experts == experts

    def lossy(*args: Any) -> dict[str, torch.Tensor]:
        return {name: t for name, t in tensors(*args).items() if ".1.mlp.experts.base_layer." not in name}

    monkeypatch.setattr("splitft.proof.targets.peft_tensors", lossy)
    report = check_split(config, [2])
    lost = set(experts) - set(report.experts)
    assert lost and all("stock peft does not load" in report.left_out[name] for name in lost)


def test_a_rope_border_that_rows_cross() -> None:
    factors: dict[str, Any] = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4096, **factors}
    config = Phi3Config(
        num_attention_heads=4, num_key_value_heads=2, hidden_size=64, num_hidden_layers=4,
        max_position_embeddings=131_072, original_max_position_embeddings=4096, rope_parameters=rope,
    )  # fmt: skip
    report = check_split(config)
    assert report.ok and report.parts and report.together
    assert "changes what another one gets" in report.parts == parts_problem(config)


def tiny_llama() -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(default_config("llama"))

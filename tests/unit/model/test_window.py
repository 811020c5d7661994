"""The window: any decoder, cut anywhere, computes what it computes whole."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedModel

from splitft.errors import ModelError
from splitft.model.config import count_blocks
from splitft.model.window import dummy_ids, find_blocks, install_window, run_blocks
from splitft.weights.shrink import shrink_config, tiny_random_model
from tiny import MODEL_TYPES, PAD_ID, VOCAB_SIZE, tiny_model

BLOCKS = 4


def batch(side: str = "right", seed: int = 0) -> dict[str, Tensor]:
    """Two rows of 11 and 6 tokens with labels, padded on one side."""
    ids = torch.randint(4, VOCAB_SIZE, (2, 11), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    if side == "right":
        mask = mask.flip(1)
    ids = ids.masked_fill(mask == 0, PAD_ID)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def whole_run(model: PreTrainedModel, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    out = model(**rows, use_cache=False)
    out.loss.backward()
    return out.logits.detach()[rows["attention_mask"].bool()], out.loss.detach(), gradients(model)


def whole_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits  # a cache changes GPT-Neo's last bits


def split_run(
    model: PreTrainedModel, rows: dict[str, Tensor], bounds: list[int]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Run the parts as separate parties do: what crosses is detached, and gradients come back."""
    mask, labels = rows["attention_mask"], rows["labels"]
    sent: list[Tensor] = []
    received: list[Tensor] = []
    hidden = run_blocks(model, 0, bounds[0], input_ids=rows["input_ids"], attention_mask=mask)
    for start, stop in zip(bounds, [*bounds[1:], BLOCKS], strict=True):
        sent.append(hidden)
        received.append(hidden.detach().requires_grad_())
        last = {"labels": labels} if stop == BLOCKS else {}
        hidden = run_blocks(model, start, stop, hidden=received[-1], attention_mask=mask, **last)
    out = hidden
    out.loss.backward()
    for tensor, entering in zip(reversed(sent), reversed(received), strict=True):
        tensor.backward(entering.grad)
    return out.logits.detach()[mask.bool()], out.loss.detach(), gradients(model)


def assert_same(
    whole: tuple[Tensor, Tensor, dict[str, Tensor]], split: tuple[Tensor, Tensor, dict[str, Tensor]]
) -> None:
    assert torch.equal(whole[0], split[0])
    assert torch.equal(whole[1], split[1])
    for name, gradient in whole[2].items():
        mine = split[2].get(name, torch.zeros_like(gradient))
        # A tied table gets its gradient in two terms, the order of whose sum differs.
        torch.testing.assert_close(mine, gradient, rtol=0, atol=1e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_front_and_trunk_equal_the_whole_at_every_cut(model_type: str, tied: bool, side: str) -> None:
    model = tiny_model(model_type, tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    rows = batch(side)
    whole = whole_run(model, rows)
    assert len(whole[2]) == len(list(model.parameters()))
    for cut in range(1, BLOCKS):
        assert_same(whole, split_run(model, rows, [cut]))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_front_trunk_and_tail_equal_the_whole(model_type: str) -> None:
    model, rows = tiny_model(model_type), batch()
    whole = whole_run(model, rows)
    for cut, tail in [(1, 2), (1, 3), (2, 3)]:
        assert_same(whole, split_run(model, rows, [cut, tail]))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_gradient_checkpointing_changes_nothing(model_type: str, reentrant: bool) -> None:
    model, rows = tiny_model(model_type), batch()
    whole = whole_run(model, rows)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.train()
    install_window(model)
    calls = count_calls(model)
    assert_same(whole, split_run(model, rows, [2]))
    assert calls == [2] * BLOCKS  # each block ran, and ran again in the backward


def count_calls(model: PreTrainedModel) -> list[int]:
    """Count the forwards of each block, recomputations included, by those of its first norm."""
    calls = [0] * BLOCKS

    def counting(index: int) -> Any:
        def hook(*_: Any) -> None:
            calls[index] += 1

        return hook

    for i, block in enumerate(find_blocks(model)[2]):
        norm = next(m for name, m in block.named_modules() if "norm" in name or name.startswith("ln_"))
        norm.register_forward_pre_hook(counting(i))
    return calls


def test_blocks_outside_the_range_do_not_run() -> None:
    model, rows = tiny_model("llama"), batch()
    install_window(model)
    calls = count_calls(model)
    hidden = run_blocks(model, 0, 3, input_ids=rows["input_ids"])
    assert calls == [1, 1, 1, 0]
    run_blocks(model, 3, 4, hidden=hidden)
    assert calls == [1, 1, 1, 1]


def test_on_block_is_told_what_runs() -> None:
    model, told = tiny_model("gpt2"), []
    hidden = run_blocks(model, 0, 2, input_ids=batch()["input_ids"], on_block=told.append)
    run_blocks(model, 2, 4, hidden=hidden, on_block=told.append)
    assert told == [-1, 0, 1, -1, 2, 3]


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gpt_neo"])
def test_dropout_seeded_by_block_does_not_depend_on_the_cut(model_type: str) -> None:
    drop = {"gpt2": "resid_pdrop", "opt": "dropout", "gpt_neo": "resid_dropout"}[model_type]
    model, rows = tiny_model(model_type, **{drop: 0.3}).train(), batch()
    ids, mask = rows["input_ids"], rows["attention_mask"]

    def seed(block: int) -> None:
        torch.manual_seed(100 + block)

    def logits(cut: int | None) -> Tensor:
        if cut is None:
            out = run_blocks(model, 0, BLOCKS, input_ids=ids, attention_mask=mask, on_block=seed)
        else:
            hidden = run_blocks(model, 0, cut, input_ids=ids, attention_mask=mask, on_block=seed)
            out = run_blocks(model, cut, BLOCKS, hidden=hidden, attention_mask=mask, on_block=seed)
        return out.logits[mask.bool()]

    whole = logits(None)
    assert all(torch.equal(logits(cut), whole) for cut in range(1, BLOCKS))
    assert not torch.equal(
        model.eval()(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()], whole
    )


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "gpt_neo"])
def test_position_embeddings_enter_once(model_type: str) -> None:
    """A server whose tables of tokens and positions are scrambled computes the same."""
    model, rows = tiny_model(model_type, tie_word_embeddings=False), batch()
    server = copy.deepcopy(model)
    tables = [m for m in server.modules() if isinstance(m, torch.nn.Embedding)]
    assert len(tables) == 2
    with torch.no_grad():
        for table in tables:
            table.weight.normal_()
    hidden = run_blocks(model, 0, 2, input_ids=rows["input_ids"])
    assert torch.equal(
        run_blocks(server, 2, BLOCKS, hidden=hidden).logits, whole_logits(model, rows["input_ids"])
    )


def test_token_order_is_kept() -> None:
    """Changing what crosses for one token changes that token and later ones, in its row alone."""
    model, rows = tiny_model("llama"), batch()
    hidden = run_blocks(model, 0, 2, input_ids=rows["input_ids"])
    before = run_blocks(model, 2, BLOCKS, hidden=hidden).logits
    changed = hidden.clone()
    changed[0, 4] += 1
    after = run_blocks(model, 2, BLOCKS, hidden=changed).logits
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[0, :4], after[0, :4])
    assert all((before[0, t] != after[0, t]).any() for t in range(4, 11))


def test_windows_nest() -> None:
    """One run inside another, on the same model, with another cut: each obeys its own plan."""
    model, rows = tiny_model("qwen3"), batch()
    ids = rows["input_ids"]
    expected = whole_logits(model, ids)
    inner: list[Tensor] = []

    def run_inside(block: int) -> None:
        if block == 2:
            hidden = run_blocks(model, 0, 1, input_ids=ids)
            inner.append(run_blocks(model, 1, BLOCKS, hidden=hidden).logits)

    outer = run_blocks(model, 0, 3, input_ids=ids, on_block=run_inside)
    assert torch.equal(run_blocks(model, 3, BLOCKS, hidden=outer).logits, expected)
    assert len(inner) == 1 and torch.equal(inner[0], expected)


def test_threads_with_different_cuts_share_one_model() -> None:
    model = tiny_model("gpt_neo")
    install_window(model)
    inputs = [batch(seed=seed)["input_ids"] for seed in range(6)]
    with torch.no_grad():
        expected = [whole_logits(model, ids) for ids in inputs]
    barrier = threading.Barrier(len(inputs))
    wrong: list[int] = []

    def work(who: int) -> None:
        cut = 1 + who % 3
        barrier.wait()
        with torch.no_grad():
            for _ in range(5):
                hidden = run_blocks(model, 0, cut, input_ids=inputs[who])
                logits = run_blocks(model, cut, BLOCKS, hidden=hidden).logits
                if not torch.equal(logits, expected[who]):
                    wrong.append(who)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_leaks_after_an_exception_in_a_block() -> None:
    model, rows = tiny_model("llama"), batch()
    ids = rows["input_ids"]
    expected = whole_logits(model, ids)

    def fail(*_: Any) -> None:
        raise RuntimeError("broken block")

    broken = find_blocks(model)[2][1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken block"):
        run_blocks(model, 0, 3, input_ids=ids)
    broken.remove()
    assert torch.equal(whole_logits(model, ids), expected)
    hidden = run_blocks(model, 0, 3, input_ids=ids)
    assert torch.equal(run_blocks(model, 3, BLOCKS, hidden=hidden).logits, expected)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_installing_the_window_changes_no_name_and_no_mode(model_type: str) -> None:
    model = tiny_model(model_type).train()
    find_blocks(model)[2][1].eval()
    names = list(model.state_dict())
    modes = [module.training for module in model.modules()]
    window = install_window(model)
    assert list(model.state_dict()) == names
    assert [module.training for module in model.modules()] == modes
    assert install_window(model) is window and find_blocks(model)[2] is window
    assert len(window) == count_blocks(model.config) == BLOCKS


def test_a_copy_has_a_window_of_its_own_and_other_blocks_get_a_new_one() -> None:
    model = tiny_model("llama")
    window = install_window(model)
    twin = copy.deepcopy(model)
    assert install_window(twin) is find_blocks(twin)[2] is not window
    twin.model.layers = torch.nn.ModuleList(list(twin.model.layers)[::-1])
    again = install_window(twin)
    assert again is find_blocks(twin)[2] and list(again) == list(twin.model.layers)
    assert install_window(model) is window


@pytest.mark.parametrize(
    ("start", "stop", "given"),
    [(0, 0, "ids"), (2, 1, "hidden"), (0, 5, "ids"), (-1, 2, "ids"), (1, 3, "ids"), (0, 2, "nothing")],
)
def test_impossible_ranges_are_refused(start: int, stop: int, given: str) -> None:
    model = tiny_model("gpt2")
    inputs = {
        "ids": {"input_ids": torch.ones(1, 3, dtype=torch.long)},
        "hidden": {"hidden": torch.ones(1, 3, 32)},
    }
    with pytest.raises(ModelError):
        run_blocks(model, start, stop, **inputs.get(given, {}))


def test_a_model_without_a_block_list_is_refused() -> None:
    model = tiny_model("gpt2")
    model.config.n_layer = 7
    with pytest.raises(ModelError, match="no list of 7 blocks"):
        find_blocks(model)


def test_dummy_ids_are_never_padding() -> None:
    model = tiny_model("llama")
    for pad in (None, 0, 1, 2):
        model.config.pad_token_id = pad
        ids = dummy_ids(model, 2, 3, torch.device("cpu"))
        assert ids.shape == (2, 3) and pad not in ids.flatten().tolist()


def test_a_float32_residual_crosses_as_it_is() -> None:
    """Mamba in bfloat16 carries float32 between its blocks; the trunk must not round what enters."""
    config = shrink_config(CONFIG_MAPPING["mamba"]())
    model = tiny_random_model(config).bfloat16()
    ids = torch.arange(4, 12)[None]
    hidden = run_blocks(model, 0, 2, input_ids=ids)
    assert hidden.dtype is torch.float32
    logits = run_blocks(model, 2, count_blocks(model.config), hidden=hidden).logits
    assert torch.equal(logits, whole_logits(model, ids))


def test_a_model_that_is_seq_first_crosses_batch_first() -> None:
    model = tiny_random_model(shrink_config(CONFIG_MAPPING["xlnet"]()))
    ids = torch.arange(4, 16).view(2, 6)
    hidden = run_blocks(model, 0, 2, input_ids=ids)
    assert hidden.shape[:2] == (2, 6)
    assert torch.equal(
        run_blocks(model, 2, count_blocks(model.config), hidden=hidden).logits, whole_logits(model, ids)
    )

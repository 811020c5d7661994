"""Halves loaded apart equal the whole, hold little, and fetch only what they need."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from cases import rest_slow
from commands import run_process
from fresh import run_code
from hub import COMMIT, Hub, serve
from splitft.errors import ModelError
from splitft.model.config import count_blocks
from splitft.model.window import find_blocks, run_blocks
from splitft.proof.every_type import default_config
from splitft.weights.load import load_config, load_model, load_tokenizer
from splitft.weights.shrink import shrink_config, tiny_random_model
from tiny import MODEL_TYPES, VOCAB_SIZE, save_tiny_model, save_to, tiny_config, tiny_model
from versions import known_types

BLOCKS = 4


def rows() -> tuple[Tensor, Tensor]:
    ids = torch.randint(4, VOCAB_SIZE, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return ids, mask


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def whole_logits(folder: Path) -> Tensor:
    ids, mask = rows()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()]


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", rest_slow(MODEL_TYPES, 2))
@torch.no_grad()
def test_halves_loaded_apart_equal_the_whole(
    model_type: str, tied: bool, sharded: bool, tmp_path: Path
) -> None:
    model = tiny_model(model_type, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, max_shard_size="30KB" if sharded else "1GB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 4 or not sharded
    expected, (ids, mask) = whole_logits(tmp_path), rows()
    for cut in (1, 3) if sharded else (2,):
        front = load_model(tmp_path, blocks=range(cut), head=False)
        trunk = load_model(tmp_path, blocks=range(cut, BLOCKS), head=True)
        assert not front.training and not trunk.training
        assert size(front) < size(model) and size(trunk) < size(model)
        hidden = run_blocks(front, 0, cut, input_ids=ids, attention_mask=mask)
        logits = run_blocks(trunk, cut, BLOCKS, hidden=hidden, attention_mask=mask).logits
        assert torch.equal(logits[mask.bool()], expected)


@torch.no_grad()
def test_a_client_holds_front_and_tail(tmp_path: Path) -> None:
    tiny_model("qwen3").save_pretrained(tmp_path, max_shard_size="30KB")
    expected, (ids, mask) = whole_logits(tmp_path), rows()
    client = load_model(tmp_path, blocks={0, 3}, head=True)
    server = load_model(tmp_path, blocks={1, 2}, head=False)
    hidden = run_blocks(client, 0, 1, input_ids=ids, attention_mask=mask)
    hidden = run_blocks(server, 1, 3, hidden=hidden, attention_mask=mask)
    logits = run_blocks(client, 3, 4, hidden=hidden, attention_mask=mask).logits
    assert torch.equal(logits[mask.bool()], expected)


def test_what_is_not_held_has_no_parameters(tmp_path: Path) -> None:
    tiny_model("llama", tie_word_embeddings=False).save_pretrained(tmp_path)
    trunk = load_model(tmp_path, blocks={2, 3}, head=True)
    held = {name.split(".")[2] for name in trunk.state_dict() if ".layers." in f".{name}"}
    assert held == {"2", "3"} and "lm_head.weight" in trunk.state_dict()
    assert count_blocks(trunk.config) == len(find_blocks(trunk)[2]) == BLOCKS
    front = load_model(tmp_path, blocks={0}, head=False)
    assert "lm_head.weight" not in front.state_dict() and "model.embed_tokens.weight" in front.state_dict()


@pytest.mark.parametrize("model_type", ["mixtral", "bloom", "opt"])
@torch.no_grad()
def test_other_layouts_of_checkpoints_load_in_parts(model_type: str, tmp_path: Path) -> None:
    """Fused experts are stored apart, and a base model's checkpoint leaves out the prefix."""
    model = tiny_random_model(shrink_config(default_config(model_type)))
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    ids = torch.arange(4, 12)[None]
    count = count_blocks(model.config)
    front, trunk = (
        load_model(tmp_path, blocks=range(2), head=False),
        load_model(tmp_path, blocks=range(2, count), head=True),
    )
    logits = run_blocks(trunk, 2, count, hidden=run_blocks(front, 0, 2, input_ids=ids)).logits
    assert torch.equal(logits, model(input_ids=ids, use_cache=False).logits)


@torch.no_grad()
def test_a_checkpoint_of_the_base_model_loads_in_parts(tmp_path: Path) -> None:
    """GPT-2's own checkpoint says h.0.…, where the causal LM says transformer.h.0.…"""
    model = tiny_model("gpt2")
    model.transformer.save_pretrained(tmp_path, max_shard_size="30KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert any(key.startswith("h.0.") for key in index["weight_map"])
    needless = index["weight_map"]["h.2.mlp.c_fc.weight"]
    (tmp_path / needless).write_bytes(b"not opened")
    part = load_model(tmp_path, blocks={0}, head=False)
    ids = rows()[0]
    expected = run_blocks(model, 0, 1, input_ids=ids)
    assert torch.equal(run_blocks(part, 0, 1, input_ids=ids), expected)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "llava", "smolvlm", "kosmos-2.5"])
@torch.no_grad()
def test_a_part_of_a_vision_language_model_has_no_vision_tower(model_type: str, tmp_path: Path) -> None:
    model = tiny_random_model(shrink_config(default_config(model_type)))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    vision = {file for key, file in index["weight_map"].items() if "vis" in key}
    needless = vision - {file for key, file in index["weight_map"].items() if "vis" not in key}
    assert needless
    for file in needless:
        (tmp_path / file).write_bytes(b"not opened")
    ids, count = torch.arange(4, 12)[None], count_blocks(model.config)
    front = load_model(tmp_path, blocks=range(2), head=False)
    trunk = load_model(tmp_path, blocks=range(2, count), head=True)
    logits = run_blocks(trunk, 2, count, hidden=run_blocks(front, 0, 2, input_ids=ids)).logits
    assert torch.equal(logits, model(input_ids=ids, use_cache=False).logits)
    assert not [name for part in (front, trunk) for name, _ in part.named_parameters() if "vis" in name]


def test_bfloat16_and_attention_are_taken_over(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    for model in (
        load_model(tmp_path, blocks={0}, head=False, dtype=torch.bfloat16, attn_implementation="eager"),
        load_model(tmp_path, dtype=torch.bfloat16, attn_implementation="eager"),
    ):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert model.config._attn_implementation == "eager"


# --- memory

_MEASURE = """
import resource, sys, torch
from pathlib import Path
from transformers import LlamaForCausalLM
from splitft.weights.load import load_model
from splitft.model.window import run_blocks
torch.set_num_threads(1)
def peak():
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM"))
before, folder, part = peak(), sys.argv[1], sys.argv[2] == "part"
model = load_model(folder, blocks={0, 1}, head=False) if part else load_model(folder)
with torch.no_grad():  # weights are read from disk when they are first used
    run_blocks(model, 0, 2 if part else 24, input_ids=torch.arange(4000)[None, ::500])
    for parameter in model.parameters():
        parameter.sum()
print(sum(p.numel() for p in model.parameters()), peak() - before)
"""


@pytest.fixture(scope="module")
def large_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 24 blocks and about 100M parameters, in 10 shards."""
    folder = tmp_path_factory.mktemp("large")
    config = LlamaConfig(
        vocab_size=4000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=24,
        num_attention_heads=8,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    model.save_pretrained(folder, max_shard_size="44MB")
    return folder


@pytest.mark.slow
def test_two_of_24_blocks_take_little_memory(large_llama: Path) -> None:
    assert len(list(large_llama.glob("*.safetensors"))) == 10
    measured = {}
    for what in ("whole", "part"):
        out = run_process([sys.executable, "-c", _MEASURE, large_llama, what], check=True).stdout
        measured[what] = tuple(map(int, out.split()))
    (parameters, growth), (held, held_growth) = measured["whole"], measured["part"]
    print(f"parameters: {held:,} of {parameters:,} = {held / parameters:.3f}")
    print(f"peak memory growth: {held_growth:,} of {growth:,} bytes = {held_growth / growth:.3f}")
    assert 95e6 < parameters < 115e6
    assert held <= 0.15 * parameters
    assert held_growth <= 0.2 * growth


# --- a hub

_ASK_HUB = """
import json, sys
from splitft.common.startup import import_libraries
import_libraries()
from splitft.errors import ModelError
from splitft.weights.load import load_config, load_model, load_tokenizer
told = {}
for name, revision in [tuple(item.split("@")) for item in sys.argv[1].split()]:
    try:
        load_config(name, revision)
    except ModelError as error:
        told[f"{name}@{revision}"] = str(error)
if len(sys.argv) > 2:
    model = load_model(sys.argv[2], blocks={0}, head=False)
    told["held"] = sum(p.numel() for p in model.parameters())
    told["pad_token"] = load_tokenizer(sys.argv[2]).pad_token
print(json.dumps(told))
"""


def ask_hub(url: str, home: Path, *arguments: str, **more: str) -> dict[str, Any]:
    """Load from this hub in a fresh process, with a cache of its own; return what it was told."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = {**clean, "HF_ENDPOINT": url, "HF_HOME": str(home), **more}
    run = run_code(_ASK_HUB, *arguments, environment=environment)
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def test_a_hub_serves_only_what_is_needed(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    tiny_model("llama", tie_word_embeddings=False).save_pretrained(folder, max_shard_size="20KB")
    save_to(folder)
    with serve(Hub({"org/model": folder}, gated={"org/gated"})) as hub:
        asked = "org/gated@main org/none@main org/model@v9 org/model@v1"
        told = ask_hub(hub.url, tmp_path / "home", asked, "org/model")
        first = len(hub.requests)
        again = ask_hub(hub.url, tmp_path / "home", "other/model@main", "org/model", HF_HUB_OFFLINE="1")
        assert len(hub.requests) == first  # what is in the cache needs no hub

    assert "is gated" in told["org/gated@main"] and "hf auth login" in told["org/gated@main"]
    assert "no such model" in told["org/none@main"] and "builtin:smollm2-135m" in told["org/none@main"]
    assert "no revision 'v9'" in told["org/model@v9"] and "org/model@v1" not in told
    assert "could not be reached" in again["other/model@main"]

    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    front = ("model.layers.0.", "model.embed_tokens.", "model.norm.")
    needed = {file for key, file in weight_map.items() if key.startswith(front)}
    fetched = {file for file in hub.fetched("org/model") if file.endswith(".safetensors")}
    assert fetched == needed and len(needed) <= len(set(weight_map.values())) / 2
    shards = [path for _, path in hub.requests if path.endswith(".safetensors")]
    assert all(f"/resolve/{COMMIT}/" in path for path in shards)  # one commit, even if the branch moves on
    for answer in (told, again):
        assert answer["held"] == size(load_model(folder, blocks={0}, head=False))
        assert answer["pad_token"] == "<|pad|>"


def test_a_hub_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=r"no such folder, and .* could not be reached"):
        load_config("org/model")


# --- what is refused


def test_missing_models_are_told(tmp_path: Path) -> None:
    for name in (tmp_path / "nowhere", "./nowhere", "a/b/c"):
        with pytest.raises(ModelError, match="no folder"):
            load_config(name)
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    tiny_config("gpt2").save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    for load in (load_model, lambda name: load_model(name, blocks={0}, head=False)):
        with pytest.raises(ModelError, match="save_pretrained"):
            load(tmp_path)


def test_torn_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "torn", "llama")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        load_model(folder, blocks={0}, head=False)


def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    tiny_config("llama").save_pretrained(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for file in ("../secret.safetensors", "weights.bin"):
        index.write_text(json.dumps({"weight_map": {"lm_head.weight": file}}))
        with pytest.raises(ModelError, match="only safetensors files beside it"):
            load_model(tmp_path)
    index.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "gone.safetensors"}}))
    with pytest.raises(ModelError, match=r"lacks gone\.safetensors"):
        load_model(tmp_path)


def test_a_checkpoint_that_lacks_a_block_is_refused(tmp_path: Path) -> None:
    tiny_model("llama", num_hidden_layers=2).save_pretrained(tmp_path)
    tiny_config("llama").save_pretrained(tmp_path)  # which states 4 blocks
    with pytest.raises(ModelError, match="lacks"):
        load_model(tmp_path, blocks={3}, head=False)


@pytest.mark.parametrize("blocks", [set(), {4}, {-1, 0}])
def test_blocks_that_do_not_exist_are_refused(blocks: set[int], tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="blocks 0 to 3"):
        load_model(tmp_path, blocks=blocks, head=False)


@pytest.mark.parametrize("model_type", known_types("zaya"))
def test_types_that_cannot_be_held_in_parts_are_refused(model_type: str, tmp_path: Path) -> None:
    tiny_random_model(shrink_config(default_config(model_type))).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="load it whole"):
        load_model(tmp_path, blocks={0}, head=False)


@torch.no_grad()
def test_a_trunk_that_reads_the_text_is_given_the_token_ids(tmp_path: Path) -> None:
    model = tiny_random_model(shrink_config(default_config("zamba2")))
    model.save_pretrained(tmp_path)
    count, ids = count_blocks(model.config), torch.arange(4, 12)[None]
    hidden = run_blocks(load_model(tmp_path, blocks=range(2), head=False), 0, 2, input_ids=ids)
    trunk = load_model(tmp_path, blocks=range(2, count), head=True)
    logits = run_blocks(trunk, 2, count, hidden=hidden, input_ids=ids).logits
    assert torch.equal(logits, model(input_ids=ids, use_cache=False).logits)


def test_configurations_without_a_causal_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="no causal language model"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    with pytest.raises(ModelError, match="cannot be used"):
        load_model(tmp_path)


# --- tokenizers and configurations


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "gpt2")
    assert load_tokenizer(tmp_path).pad_token == "<|pad|>"
    settings = tmp_path / "tokenizer_config.json"
    values = json.loads(settings.read_text())
    values.pop("pad_token")
    settings.write_text(json.dumps(values))
    assert load_tokenizer(tmp_path).pad_token == "<|endoftext|>"


def test_a_folder_without_tokenizer_is_told(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(tmp_path)


def test_router_losses_are_turned_off(tmp_path: Path) -> None:
    config = default_config("mixtral")
    config.output_router_logits = True
    config.save_pretrained(tmp_path)
    assert load_config(tmp_path).output_router_logits is False

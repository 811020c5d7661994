"""`run` with objects: a model, a tokenizer and data sets in the place of what a job names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from reference import make_setting, write_rows
from splitft import SplitFTError, run

QUIET = Console(quiet=True)
Settings = dict[str, Any]
NAMES = ["north", "south"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("given")
    files = {name: str(write_rows(folder / f"{name}.txt", 20, n)) for n, name in enumerate(NAMES)}
    made = make_setting(folder, "llama") | {
        "data_files": files, "partition": {"method": "files"}, "rounds": 2, "local_steps": 2, "cuts": [1, 2],
        "warmup_steps": 0, "adapter_name_or_path": None,
    }  # fmt: skip
    return {key: value for key, value in made.items() if key != "clients"}


@pytest.fixture
def objects(setting: Settings) -> Settings:
    """The same model, tokenizer and rows as objects."""
    folder = setting["model_name_or_path"]
    rows = {name: Path(path).read_text().split("\n\n") for name, path in setting["data_files"].items()}
    return {
        "model": AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "train_dataset": {name: Dataset.from_dict({"text": texts}) for name, texts in rows.items()},
    }


def keys_alone(setting: Settings) -> Settings:
    named = ("model_name_or_path", "data_files", "partition")
    return {key: value for key, value in setting.items() if key not in named}


def test_objects_give_the_bits_of_files(setting: Settings, objects: Settings, tmp_path: Path) -> None:
    by_file = run(setting, console=QUIET, output_dir=str(tmp_path / "files"))
    by_object = run(keys_alone(setting), console=QUIET, output_dir=str(tmp_path / "objects"), **objects)
    texts = {name: list(data["text"]) for name, data in objects["train_dataset"].items()}
    objects["train_dataset"] = texts
    by_text = run(keys_alone(setting), console=QUIET, output_dir=str(tmp_path / "texts"), **objects)
    name = "adapter_model.safetensors"
    files, *others = [(made.adapter_path / name).read_bytes() for made in (by_file, by_object, by_text)]
    assert others == [files, files]
    assert by_object.summary["perplexity"] == by_file.summary["perplexity"]


@pytest.mark.parametrize("start", [True, "pissa"])
def test_the_model_is_left_as_it_was(
    start: Any, setting: Settings, objects: Settings, tmp_path: Path
) -> None:
    model = objects["model"].train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(
        keys_alone(setting), console=QUIET, output_dir=str(tmp_path / "x"), init_lora_weights=start, **objects
    )
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_evaluation_set_of_ones_own(setting: Settings, objects: Settings, tmp_path: Path) -> None:
    held = Dataset.from_dict({"text": [f"the law of the people number {i}" for i in range(7)]})
    result = run(
        keys_alone(setting), console=QUIET, output_dir=str(tmp_path / "x"), eval_dataset=held, **objects,
        max_eval_samples=None,
    )  # fmt: skip
    tokens = sum(len(ids) for ids in objects["tokenizer"](list(held["text"]))["input_ids"])
    assert sum(client.eval_tokens for client in result.history[-1].clients.values()) == tokens


def peft_model(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))


def test_what_is_no_model_or_data_set_is_told(setting: Settings, objects: Settings, tmp_path: Path) -> None:
    folder = setting["model_name_or_path"]
    data = objects["train_dataset"]["north"]
    for changes, problem in (
        (
            {"model": torch.nn.Linear(2, 2)},
            "model must be a causal language model of transformers",
        ),
        (
            {"model": AutoModel.from_pretrained(folder)},
            "model must be a LlamaForCausalLM, which has",
        ),
        (
            {"dtype": "bfloat16"},
            "dtype: the model given has torch.float32: leave dtype",
        ),
        ({"train_dataset": DatasetDict(train=data)}, "train_dataset.*: give one split"),
        ({"train_dataset": data.to_iterable_dataset()}, "train_dataset is a IterableDataset: give one split"),
        ({"train_dataset": "rows.txt"}, "train_dataset must be a datasets.Dataset, a list of texts"),
        ({"train_dataset": ["a text", 3]}, "train_dataset, row 2: must be a text or"),
        ({"train_dataset": data.rename_column("text", "body")}, "no column 'text'"),
        (
            {"model": peft_model(AutoModelForCausalLM.from_pretrained(folder))},
            "give its base model",
        ),
    ):
        with pytest.raises(SplitFTError, match=problem):
            settings = keys_alone(setting) | {"cuts": 1, "output_dir": str(tmp_path / "x")}
            run(settings, console=QUIET, **objects | changes)

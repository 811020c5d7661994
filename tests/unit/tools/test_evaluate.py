"""`splitft evaluate` gives the figures that lm-eval, rouge-score and sacrebleu give on the merged model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from cases import rest_slow
from commands import splitft
from reference import make_setting
from splitft import Job
from splitft.data import prepare
from splitft.running.export import export_command
from splitft.running.runner import run
from tiny import CHAT_TEMPLATE, save_to

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

TOKENS = 6
TASKS = {
    "states": {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer", "metric_list": ["acc", "acc_norm"],
    },
    "written": {
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{written}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": TOKENS, "do_sample": False},
        "metric_list": ["exact_match"],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}",
        "metric_list": ["word_perplexity"],
    },
}  # fmt: skip


def by_hand(model_path: Path | str, prompts: list[str]) -> list[str]:
    """Continue each prompt by itself, with stock transformers."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    texts = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        made = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
        texts.append(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of two clients on prompts, every other of which the base model continues as it is written."""
    folder = tmp_path_factory.mktemp("evaluate")
    settings = make_setting(folder, "llama")
    prompts = [f"we the people of {number} states" for number in range(60)]
    texts = by_hand(settings["model_name_or_path"], prompts)
    rows = [
        {"prompt": prompt, "completion": text if number % 2 else f"{text} go"}
        for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings |= {
        "data_files": str(folder / "rows.jsonl"), "clients": 2, "cuts": [1, 2], "rounds": 1, "local_steps": 1,
        "warmup_steps": 0, "max_length": 64, "max_eval_samples": 20, "eval_fraction": 0.4,
        "output_dir": str(folder / "run"),
    }  # fmt: skip
    run(Job(**settings))
    export_command(folder / "run", folder / "merged", merge=True)
    return folder, settings


@pytest.fixture(scope="module")
def tasks(setting: tuple[Path, dict[str, Any]]) -> Path:
    """A folder of local tasks, one of each sort."""
    folder = setting[0] / "tasks"
    folder.mkdir()
    questions = [f"we the people of {number} laws" for number in range(12)]
    written = by_hand(setting[0] / "merged", questions)
    docs = [
        {
            "question": q,
            "choices": ["states", "order", "union"],
            "answer": i % 3,
            "written": w if i % 4 else "-",
        }
        for i, (q, w) in enumerate(zip(questions, written, strict=True))
    ]
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, docs)))
    for name, task in TASKS.items():
        write_task(folder / f"{name}.yaml", folder, task=name, **task)
    return folder


def write_task(path: Path, folder: Path, **task: Any) -> None:
    rows = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}}}
    task["metric_list"] = [
        {
            "metric": name,
            **({} if "perplexity" in name else {"aggregation": "mean", "higher_is_better": True}),
        }
        for name in task["metric_list"]
    ]
    path.write_text(yaml.safe_dump({**rows, "test_split": "test", **task}))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    return lambda *arguments: splitft("evaluate", *arguments, monkeypatch=monkeypatch)


def test_tasks_give_the_figures_of_lm_eval_on_the_merged_model(
    setting: tuple[Path, dict[str, Any]],
    tasks: Path,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder, settings = setting
    out = folder / "tasks.json"
    names = ",".join(TASKS)
    code = command(
        folder / "run", "--tasks", names, "--include_path", tasks, "--batch-size", 4, "--output", out
    )
    shown = capsys.readouterr().out
    assert code == 0, shown
    figures = json.loads(out.read_text())["tasks"]
    models = {"base": settings["model_name_or_path"], "adapter": str(folder / "merged")}
    for side, path in models.items():
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": path, "dtype": "float32"},
            tasks=list(TASKS),
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            batch_size=4,
            device="cpu",
        )
        assert found is not None
        assert figures[side]["results"] == json.loads(json.dumps(found["results"])), side
    after = figures["adapter"]["results"]
    assert after["written"]["exact_match,none"] == pytest.approx(9 / 12)
    assert figures["base"]["results"]["rolling"] != after["rolling"]
    assert f"{after['rolling']['word_perplexity,none']:.4f}" in shown


def test_generation_gives_the_scores_of_the_libraries_on_the_merged_model(
    setting: tuple[Path, dict[str, Any]], command: Callable[..., int]
) -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu

    folder, settings = setting
    assert command(folder / "run", "--generate", "--max-new-tokens", TOKENS) == 0
    found = json.loads((folder / "run" / "evaluation.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(settings["model_name_or_path"])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    held = {
        client.name: [rows[number] for number in client.eval.records]
        for client in prepare(Job(**settings), tokenizer).clients
    }
    assert sum(map(len, held.values())) == 20
    held["all"] = [row for own in held.values() for row in own]
    for side, path in {"base": settings["model_name_or_path"], "adapter": folder / "merged"}.items():
        scores = found["generation"][side]["scores"]
        assert scores.keys() == held.keys()
        for name, own in held.items():
            texts = [text.strip() for text in by_hand(path, [row["prompt"] for row in own])]
            wanted = [row["completion"].strip() for row in own]
            rouge = RougeScorer(["rouge1", "rouge2", "rougeL"])
            each = [rouge.score(text, made) for text, made in zip(wanted, texts, strict=True)]
            assert scores[name] == {
                "exact_match": sum(a == b for a, b in zip(texts, wanted, strict=True)) / len(own),
                **{key: sum(one[key].fmeasure for one in each) / len(own) for key in each[0]},
                "bleu": corpus_bleu(texts, [wanted]).score,
            }
    before, after = (found["generation"][side]["scores"]["all"] for side in ("base", "adapter"))
    assert 0 < before["exact_match"] < 1
    assert before != after


def test_a_file_at_a_site_gives_the_rows_that_its_client_holds_out(
    setting: tuple[Path, dict[str, Any]], command: Callable[..., int]
) -> None:
    folder, settings = setting
    adapter, data, out = folder / "run" / "adapter", folder / "rows.jsonl", folder / "site.json"
    site = Job(**settings | {"data_files": {"north": str(data)}, "clients": 1, "cuts": 1})
    tokenizer = AutoTokenizer.from_pretrained(settings["model_name_or_path"])
    rows = [json.loads(line)["completion"] for line in data.read_text().splitlines()]
    held = prepare(site, tokenizer).clients[0].eval.records
    shared = ["--generate", "--max-new-tokens", 2, "--data", data, "--no-base"]
    assert command(adapter, *shared, "--name", "north", "--output", out) == 0
    found = json.loads(out.read_text())
    assert found["references"] == {"north": [rows[number] for number in held]}
    assert list(found["generation"]) == ["adapter"]

    copy = folder / "adapter-elsewhere"  # without its run all rows of the file count, here the first 3
    adapter.rename(copy)
    try:
        out.unlink()
        assert command(copy, *shared, "--max-samples", 3, "--output", out) == 0
    finally:
        copy.rename(adapter)
    kept = json.loads(out.read_text())["references"]["rows.jsonl"]
    assert len(kept) == 3
    assert set(kept) <= set(rows)


def test_messages_are_continued_from_the_last_answer(tmp_path: Path) -> None:
    from splitft.data.references import held_out_references

    tokenizer = AutoTokenizer.from_pretrained(save_to(tmp_path / "chat", CHAT_TEMPLATE))
    talk = [
        {"role": "user", "content": "who are we"}, {"role": "assistant", "content": "the people"},
        {"role": "user", "content": "of what"}, {"role": "assistant", "content": "the states"},
    ]  # fmt: skip
    rows = [{"messages": talk}, {"messages": talk[:1]}] * 6
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = Job(
        model_name_or_path="m", data_files=str(tmp_path / "rows.jsonl"), clients=1, eval_fraction=0.9,
        packing=True, max_length=8,
    )  # fmt: skip
    found = held_out_references(job, tokenizer)["client-0"]
    assert found
    header = "user: who are we\nassistant: the people\nuser: of what\nassistant: "
    assert {(tokenizer.decode(row.prompt), row.text) for row in found} == {(header, "the states")}


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "nothing asked": (["{run}"], 2, "nothing to evaluate"),
    "no run": (["{tasks}", "--generate"], 2, "holds no run"),
    "a run without an adapter": (["{bare}", "--generate"], 2, "none of its rounds is complete"),
    "adapters of clients": (["{local}", "--generate"], 2, "local/adapters/north"),
    "no such folder": (["./nowhere", "--generate"], 4, "is no folder"),
    "an unknown task": (["{run}", "--tasks", "stats", "--include-path", "{tasks}"], 2, "mean states?"),
    "no task folder": (["{run}", "--tasks", "states", "--include-path", "{run}/nowhere"], 2, "is no folder"),
    "tasks in the run": (["{run}", "--tasks", "states", "--include-path", "{run}"], 2, "may run code"),
    "tasks around the run": (["{run}", "--tasks", "states", "--include-path", "{run}/.."], 2, "may run code"),
    "code of a model": (["{run}", "--tasks", "unsafe", "--include-path", "{odd}"], 2, "unsafe_code"),
    "a metric of a hub": (["{run}", "--tasks", "foreign", "--include-path", "{odd}"], 2, "from a hub"),
    "rows of a hub": (["{run}", "--tasks", "remote", "--include-path", "{odd}"], 3, "come from a hub"),
    "a template that fails": (["{run}", "--tasks", "broken", "--include-path", "{odd}"], 3, "broken"),
    "a model has no rows": (["{model}", "--generate"], 2, "--data FILE"),
    "data elsewhere": (["{network}", "--generate"], 2, "at the site"),
    "plain text": (["{model}", "--generate", "--data", "{text}"], 3, "plain text"),
    "too long": (["{run}", "--generate", "--max-new-tokens", "128"], 2, "the model takes 128 tokens"),
    "an output that is there": (["{run}", "--generate", "--output", "{text}"], 5, "is there already"),
    "a name without a file": (["{run}", "--generate", "--name", "north"], 2, "--name goes with --data"),
}  # fmt: skip


@pytest.mark.parametrize(
    "mistake",
    rest_slow(MISTAKES, [name for name in MISTAKES if name != "an unknown task"]),  # it lists all there are
)
def test_a_mistake_is_told_in_one_line(
    mistake: str,
    setting: tuple[Path, dict[str, Any]],
    tasks: Path,
    tmp_path: Path,
    command: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, settings = setting
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = {"run": folder / "run", "tasks": tasks, "model": settings["model_name_or_path"]}
    for name in ("bare", "local", "network", "odd"):
        (tmp_path / name).mkdir()
        if name != "odd":
            (tmp_path / name / "job.yaml").write_bytes((folder / "run" / "job.yaml").read_bytes())
        places[name] = tmp_path / name
    (tmp_path / "local" / "adapters" / "north").mkdir(parents=True)
    (tmp_path / "network" / "adapter").symlink_to(folder / "run" / "adapter")
    written = yaml.safe_load((folder / "run" / "job.yaml").read_text()) | {"data_files": None}
    written |= {"network": {"clients": ["north", "south"]}, "labels": "server"}
    (tmp_path / "network" / "job.yaml").write_text(yaml.safe_dump(written))
    places["text"] = tmp_path / "rows.txt"
    places["text"].write_text("we the people\n\nof the states")
    odd = {
        "unsafe": {"unsafe_code": True}, "foreign": {"metric_list": ["someone/metric"]},
        "remote": {"dataset_path": "someone/rows", "dataset_kwargs": {}},
        "broken": {"doc_to_text": "{{nothing}}"},
    }  # fmt: skip
    for name, changes in odd.items():
        write_task(tmp_path / "odd" / f"{name}.yaml", tasks, **TASKS["states"] | {"task": name} | changes)

    arguments, expected, text = MISTAKES[mistake]
    code = command(*(argument.format(**places) for argument in arguments))
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == expected, told
    assert len(told) == 1
    assert text in told[0]


@pytest.mark.parametrize(("module", "option"), [("lm_eval", "--tasks=x"), ("sacrebleu", "--generate")])
def test_a_missing_extra_is_named(
    module: str,
    option: str,
    setting: tuple[Path, dict[str, Any]],
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert command(setting[0] / "run", option) == 2
    assert "pip install 'splitft[eval]'" in capsys.readouterr().err

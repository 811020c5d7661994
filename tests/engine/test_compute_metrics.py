"""`compute_metrics` and `preprocess_logits_for_metrics`, with the names and the meaning of Trainer's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, EvalPrediction, Trainer, TrainingArguments

from cases import rest_slow
from reference import make_setting, write_rows
from splitft import Callback, Job, RunResult, run
from splitft.data import ClientData, prepare
from splitft.data.estimates import HeldOutRows
from splitft.errors import DataError, JobError
from splitft.running.predictions import HeldOutPredictions, check_rows

QUIET = Console(quiet=True)
Settings = dict[str, Any]
NAMES = ["north", "south"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("metrics")
    files = {name: str(write_rows(folder / f"{name}.txt", 40, n)) for n, name in enumerate(NAMES)}
    made = make_setting(folder, "llama") | {
        "data_files": files, "partition": {"method": "files"}, "rounds": 1, "local_steps": 2, "cuts": [1, 2],
        "warmup_steps": 0, "adapter_name_or_path": None, "eval_every": 1, "eval_fraction": 0.2,
        "max_eval_samples": None, "per_device_eval_batch_size": 3,
    }  # fmt: skip
    return {key: value for key, value in made.items() if key != "clients"}


@pytest.fixture(scope="module")
def plain(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The run without a function of one's own."""
    return run(setting, console=QUIET, output_dir=str(tmp_path_factory.mktemp("plain") / "run"))


@pytest.fixture(scope="module")
def clients(setting: Settings) -> list[ClientData]:
    return prepare(Job(**setting), AutoTokenizer.from_pretrained(setting["model_name_or_path"])).clients


class Seen:
    """A function as for Trainer that remembers its arguments."""

    def __init__(self) -> None:
        self.calls: list[EvalPrediction] = []

    def __call__(self, given: EvalPrediction) -> dict[str, Any]:
        logits, labels = given
        self.calls.append(EvalPrediction(logits.copy(), labels.copy()))
        shown = labels[:, 1:] != -100
        right = (logits[:, :-1].argmax(-1) == labels[:, 1:])[shown]
        labels[:] = 7  # as many do, in place
        return {"accuracy": right.mean(), "eval_rows": len(labels), "high": torch.tensor(logits.max())}


def of_trainer(model: Any, rows: list[ClientData], folder: Path) -> tuple[dict[str, float], EvalPrediction]:
    """Evaluate rows, in their order, by Trainer; return its figures and what it gave the function."""
    examples = [
        {"input_ids": ids.tolist(), "labels": labels.tolist()}
        for client in rows
        for ids, labels in zip(client.eval.input_ids, client.eval.labels, strict=True)
    ]

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in batch)
        return {
            "input_ids": torch.tensor([r["input_ids"] + [0] * (width - len(r["input_ids"])) for r in batch]),
            "labels": torch.tensor([r["labels"] + [-100] * (width - len(r["labels"])) for r in batch]),
            "attention_mask": torch.tensor([
                [1] * len(r["labels"]) + [0] * (width - len(r["labels"])) for r in batch
            ]),
        }  # fmt: skip

    seen = Seen()
    arguments = TrainingArguments(
        str(folder), use_cpu=True, report_to=[], per_device_eval_batch_size=2, disable_tqdm=True
    )
    trainer = Trainer(model, arguments, data_collator=collate, eval_dataset=examples, compute_metrics=seen)
    return trainer.evaluate(), seen.calls[0]


@pytest.mark.parametrize(
    "changes",
    rest_slow(
        [
            {},
            {"server_evaluates": False, "padding_free": True},
            {"labels": "client", "loss_chunk_tokens": 0},
            {"method": "fed_lora"},
            {"method": "centralized"},
        ],
        2,
    ),
    ids=["server", "through the cut", "labels at home", "fed_lora", "centralized"],
)
def test_figures_are_those_of_trainer(
    changes: Settings, setting: Settings, plain: RunResult, clients: list[ClientData], tmp_path: Path
) -> None:
    seen = Seen()
    result = run(setting, console=QUIET, compute_metrics=seen, output_dir=str(tmp_path / "run"), **changes)
    last, model = result.history[-1], result.load_model()
    assert len(seen.calls) == 2 * (len(NAMES) + 1)
    for rows, found, given in (
        ([clients[0]], last.clients["north"].metrics, seen.calls[-3]),
        ([clients[1]], last.clients["south"].metrics, seen.calls[-2]),
        (clients, last.metrics, seen.calls[-1]),
    ):
        figures, wanted = of_trainer(model, rows, tmp_path)
        assert found == pytest.approx({key: figures[key] for key in found}, abs=1e-5)
        assert list(found) == ["eval_accuracy", "eval_rows", "eval_high"]
        assert np.array_equal(given.label_ids, wanted.label_ids)
        valid = wanted.label_ids != -100
        np.testing.assert_allclose(given.predictions[valid], wanted.predictions[valid], atol=1e-4)
        assert (given.predictions[~valid] == -100).all()
    # Nothing else of the run has changed.
    if not changes:
        name = "adapter_model.safetensors"
        assert (result.adapter_path / name).read_bytes() == (plain.adapter_path / name).read_bytes()
        assert last.perplexity == plain.history[-1].perplexity and plain.history[-1].metrics == {}
        assert [r.bytes for r in result.history] == [r.bytes for r in plain.history]


def test_figures_reach_history_summary_and_callbacks_and_samples_are_those_evaluated(
    setting: Settings, tmp_path: Path
) -> None:
    told: list[Any] = []

    class Told(Callback):
        def on_evaluate(self, job: Job, record: Any) -> None:
            told.append(record.metrics)

        def on_log(self, job: Job, round_: int, logs: Any) -> None:
            told.append(logs)

    result = run(
        setting, console=QUIET, compute_metrics=lambda given: {"sum": given[0][given[1] != -100].sum()},
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1), callbacks=[Told],
        metrics=["top5_accuracy"], eval_precision=0.5, output_dir=str(tmp_path / "a"),
    )  # fmt: skip
    first, last = result.history[0], result.history[-1]
    assert first.eval_rows < last.eval_rows and first.metrics["eval_sum"] < last.metrics["eval_sum"]
    assert sum(client.metrics["eval_sum"] for client in last.clients.values()) == last.metrics["eval_sum"]
    assert last.metrics.keys() == {"top5_accuracy", "eval_sum"}
    assert (result.summary["metrics_before"], result.summary["metrics"]) == (first.metrics, last.metrics)
    assert told[-2] == last.metrics and told[-1]["metrics/eval_sum"] == last.metrics["eval_sum"]
    assert told[-1]["clients/south/metrics/eval_sum"] == last.clients["south"].metrics["eval_sum"]
    # Logits reduced row by row, in several parts, are those of all rows.
    whole = run(
        setting, console=QUIET, output_dir=str(tmp_path / "b"), eval_precision=0.5,
        preprocess_logits_for_metrics=lambda logits, labels: {"few": (logits[..., :2].half(), labels)},
        compute_metrics=lambda given: {
            "rows": len(given.predictions["few"][0]), "same": (given[0]["few"][1] == given[1]).all(),
        },
    )  # fmt: skip
    assert whole.history[-1].metrics == {"eval_rows": last.eval_rows, "eval_same": 1.0}


def test_a_run_that_goes_on_has_the_same_figures(setting: Settings, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_round_end(self, job: Job, record: Any) -> None:
            if record.round == 1:
                raise RuntimeError("enough")

    settings = setting | {"rounds": 2, "eval_precision": 0.5}
    whole = run(settings, console=QUIET, compute_metrics=Seen(), output_dir=str(tmp_path / "whole"))
    settings["output_dir"] = str(tmp_path / "halves")
    with pytest.raises(JobError, match="enough"):
        run(settings, console=QUIET, compute_metrics=Seen(), callbacks=[Stop])
    halves = run(settings, console=QUIET, compute_metrics=Seen(), resume=True)
    assert [record.metrics for record in halves.history] == [record.metrics for record in whole.history]
    assert all(record.metrics for record in whole.history)


def test_a_function_that_fails_stops_the_run_in_one_line(setting: Settings, tmp_path: Path) -> None:
    """Before training, with the exit code of other pieces."""
    for number, (functions, problem) in enumerate((
        ({"compute_metrics": lambda given: 1 / 0}, "compute_metrics failed on the rows of north: ZeroDiv"),
        ({"compute_metrics": 3}, "compute_metrics must be a function, not a int"),
        (
            {"preprocess_logits_for_metrics": lambda logits, labels: logits},
            "preprocess_logits_for_metrics goes with compute_metrics",
        ),
    )):  # fmt: skip
        with pytest.raises(JobError, match=problem) as stop:
            run(setting, console=QUIET, output_dir=str(tmp_path / str(number)), **functions)
        assert "\n" not in str(stop.value) and stop.value.exit_code == 2


def kept(compute: Any, preprocess: Any, clients: list[ClientData], taken: tuple[str, ...] = ()) -> Any:
    held = HeldOutPredictions(compute, preprocess, clients, 0, taken)
    for client in clients:
        for place, labels in enumerate(client.eval.labels):
            logits = torch.zeros(len(labels), 3)
            held.keep(client.name, place, logits, torch.tensor(labels))
    rows = {client.name: HeldOutRows(len(client.eval), len(client.eval)) for client in clients}
    return held.figures(rows)


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ([1.0], "must return a dict of numbers by name, it returned a list"),
        (None, "it returned a NoneType"),
        ({"a": float("nan")}, "finite numbers; a is nan on the rows of north"),
        ({"a": torch.tensor(float("inf"))}, "a is inf"),
        ({"a": "many"}, "must return numbers; a is a str"),
        ({"a": np.zeros(2)}, "a is a ndarray"),
        ({3: 1.0}, "by texts, one name is 3"),
        ({"loss": 1.0}, r"returned loss, a name that is taken \(eval_loss\)"),
        ({"eval_runtime": 1.0}, "returned eval_runtime, a name that is taken"),
        ({"mine": 1.0}, r"a name that is taken \(eval_mine\)"),
    ],
)
def test_figures_that_are_none_are_refused(returned: Any, problem: str, clients: list[ClientData]) -> None:
    with pytest.raises(JobError, match=problem):
        kept(lambda given: returned, None, clients, ("eval_mine",))


@pytest.mark.parametrize(
    ("preprocess", "problem"),
    [
        (lambda logits, labels: logits[0, :2], r"one row at a time.*\(1, …\), it returned \(2, 3\)"),
        (lambda logits, labels: None, "must return a tensor or several, it returned None"),
        (lambda logits, labels: logits.nothing, "preprocess_logits_for_metrics failed: AttributeError"),
        (lambda logits, labels: logits[:, :, : logits.shape[1] % 2 + 1], "other forms for other rows"),
    ],
)
def test_predictions_that_are_none_are_refused(
    preprocess: Any, problem: str, clients: list[ClientData]
) -> None:
    with pytest.raises(JobError, match=problem):
        kept(lambda given: {}, preprocess, clients)


def test_logits_that_memory_does_not_hold_are_refused(clients: list[ClientData]) -> None:
    rows, longest = sum(len(c.eval) for c in clients), max(int(c.eval.lengths.max()) for c in clients)
    with pytest.raises(
        JobError, match=rf"{rows} rows of up to {longest} tokens .* take .* GB, and .*: give pre"
    ):
        check_rows(clients, 10**12, reduced=False)
    check_rows(clients, 10**12, reduced=True)
    check_rows(clients, 10, reduced=False)
    none = [ClientData(c.name, c.train, c.eval.select([])) for c in clients]
    with pytest.raises(DataError, match="needs held-out rows"):
        check_rows(none, 10, reduced=True)

"""Callbacks of a user's own: the events they get, here and over a network, and what a failure costs."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from bad_jobs import QUIET, Settings, assert_one_message
from rich.console import Console

from cases import rest_slow
from network_threads import together
from splitft import Callback, Job, run
from splitft.errors import JobError
from tiny import save_tiny_model

EVENTS = [name for name in vars(Callback) if name.startswith("on_")]


class Recorder(Callback):
    """Keeps all events with their arguments."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[Any, ...]]] = []

    def __getattribute__(self, name: str) -> Any:
        if name in EVENTS:
            return lambda job, *arguments: self.seen.append((name, arguments))
        return super().__getattribute__(name)

    def of(self, event: str) -> list[tuple[Any, ...]]:
        return [arguments for name, arguments in self.seen if name == event]

    def names(self) -> list[str]:
        """The events in their order, several steps as one."""
        names = [name for name, _ in self.seen]
        return [name for i, name in enumerate(names) if not i or names[i - 1] != name]


ROUND = ["on_round_begin", "on_step_end", "on_evaluate", "on_log", "on_save", "on_round_end"]
BEFORE = [name for name in ROUND if name != "on_step_end"]


def test_events_come_in_order_with_the_figures_of_the_run(settings: Settings, tmp_path: Path) -> None:
    recorder = Recorder()
    job = Job(**{**settings, "rounds": 2, "local_steps": 3})
    result = run(job, callbacks=[recorder], console=QUIET)
    assert recorder.names() == ["on_train_begin", *BEFORE, *ROUND, *ROUND, "on_train_end"]
    assert recorder.of("on_train_begin") == [(tmp_path / "out", -1)]
    cuts, names = {"client-0": 2, "client-1": 2}, ["client-0", "client-1"]
    assert recorder.of("on_round_begin") == [(0, cuts, []), (1, cuts, names), (2, cuts, names)]
    assert [record for (record,) in recorder.of("on_round_end")] == result.history
    assert recorder.of("on_train_end") == [(result.summary,)]
    logs = recorder.of("on_log")[2][1]
    assert logs["eval/perplexity"] == result.history[2].perplexity
    assert logs["clients/client-1/cut"] == 2
    # The live file says the same at the end, for whoever may read the folder.
    live = json.loads((tmp_path / "out" / "live.json").read_text())
    assert (live["phase"], live["round"], live["cohort"], live["waiting_for"]) == ("done", 2, names, [])
    assert live["bytes"] == result.summary["bytes"]
    assert sum(live["clients"][name]["bytes_up"] for name in names) == result.summary["bytes_up"]
    last = {client: loss for _, step, client, loss in recorder.of("on_step_end") if step == 2}
    assert {n: c["loss"] for n, c in live["clients"].items()} == pytest.approx(last, abs=1e-4)
    assert live["decision"] is None, "the cuts are fixed"
    assert all(c["tokens_per_second"] > 0 for c in live["clients"].values())
    assert (tmp_path / "out" / "live.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("changes", [{}, {"micro_batches": 2}, {"method": "fed_lora"}])
def test_losses_of_steps_are_those_of_the_round(changes: Settings, settings: Settings) -> None:
    """Rows of equal length have as many tokens in every step, so that a mean of means is the mean."""
    Path(settings["data_files"]).with_name("equal.txt").write_text("\n\n".join(["the people"] * 40))
    settings |= {"data_files": settings["data_files"].replace("rows.txt", "equal.txt")}
    recorder = Recorder()
    job = Job(**{**settings, "local_steps": 3, "gradient_accumulation_steps": 2, **changes})
    result = run(job, callbacks=[recorder], console=QUIET)
    for name, client in result.history[1].clients.items():
        steps = [(step, loss) for round_, step, who, loss in recorder.of("on_step_end") if who == name]
        assert [step for step, _ in steps] == [0, 1, 2]
        assert sum(loss for _, loss in steps) / 3 == pytest.approx(client.loss, rel=1e-5)


def test_a_class_is_made_and_anything_else_is_refused(settings: Settings, tmp_path: Path) -> None:
    made = []

    class Counted(Callback):
        def on_train_end(self, job: Job, summary: Any) -> None:
            made.append(summary["rounds"])

    run(Job(**settings), callbacks=[Counted], console=QUIET)
    assert made == [1]
    with pytest.raises(JobError, match="7 is no splitft"):
        run(Job(**{**settings, "output_dir": str(tmp_path / "b")}), callbacks=[7], console=QUIET)  # type: ignore[list-item]
    assert not (tmp_path / "b").exists()


def failing_in(event: str, round_: int) -> Callback:
    """Return a callback that fails in an event of a round."""
    now = [-1]

    class Fails(Recorder):
        def __getattribute__(self, name: str) -> Any:
            if name == "on_round_begin":
                return lambda job, number, *rest: now.__setitem__(0, number) or fails(name)
            return (lambda *_: fails(name)) if name in EVENTS else object.__getattribute__(self, name)

    def fails(name: str) -> None:
        if name == event and now[0] == round_:
            raise ZeroDivisionError("no clients to share")

    return Fails()


@pytest.mark.parametrize(
    ("event", "kept"),
    rest_slow(
        [("on_round_begin", 1), ("on_step_end", 1), ("on_log", 2), ("on_save", 2), ("on_round_end", 2)], 2
    ),
)
def test_a_callback_that_fails_is_named_and_loses_no_round(
    event: str, kept: int, settings: Settings, tmp_path: Path
) -> None:
    told, other, job = StringIO(), Recorder(), Job(**{**settings, "rounds": 3})
    with pytest.raises(JobError) as refusal:
        callbacks = [other, failing_in(event, 2)]
        run(job, callbacks=callbacks, console=Console(file=told, width=300))
    wanted = (f"callback Fails failed in {event}: ZeroDivisionError: no clients to share",)
    assert_one_message(f"error: {refusal.value}", wanted)
    assert refusal.value.exit_code == 2
    assert f"stopped after round {kept}; its results are in {tmp_path / 'out'}" in told.getvalue()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["rounds"], summary["interrupted"]) == (kept, True)
    assert other.of("on_train_end") == [({"rounds": kept, "interrupted": True},)]
    # The rest of the run, with a callback that does not fail.
    after = Recorder()
    result = run(job, callbacks=[after], console=QUIET, resume=True)
    assert after.of("on_train_begin") == [(tmp_path / "out", kept)]
    assert [record.round for (record,) in after.of("on_round_end")] == list(range(kept + 1, 4))
    assert result.summary["interrupted"] is False


def test_a_callback_that_fails_at_the_start_leaves_no_run(settings: Settings, tmp_path: Path) -> None:
    other = Recorder()
    with pytest.raises(JobError, match="callback Fails failed in on_train_begin"):
        run(Job(**settings), callbacks=[other, failing_in("on_train_begin", -1)], console=QUIET)
    assert not any((tmp_path / "out").glob("*"))
    assert other.names() == ["on_train_begin", "on_train_end"]


def test_a_callback_changes_no_bit_of_a_run(settings: Settings, tmp_path: Path) -> None:
    adapters = []
    for folder, callbacks in (("a", []), ("b", [Recorder()])):
        job = Job(**{**settings, "output_dir": str(tmp_path / folder), "lora_dropout": 0.1})
        result = run(job, callbacks=callbacks, console=QUIET)
        adapters.append((result.adapter_path / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_events_over_a_network_are_those_of_one_process(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model", "gpt2")
    files = {}
    for name in ("north", "south"):
        files[name] = str(tmp_path / f"{name}.txt")
        Path(files[name]).write_text("\n\n".join(f"{name} made law number {i}" for i in range(20)))
    setting = {
        "model_name_or_path": str(tmp_path / "model"), "data_files": files, "max_length": 32, "rounds": 1,
        "local_steps": 2, "cuts": 2, "lora_r": 4, "use_cpu": True, "labels": "server", "codec": "none",
        "network": {"clients": list(files)}, "clients": 2, "privacy": "server_reads",
    }  # fmt: skip
    far, near = Recorder(), Recorder()
    together(setting, tmp_path / "far", callbacks=[far])
    run(Job(**setting, output_dir=str(tmp_path / "near")), callbacks=[near], console=QUIET)
    assert far.names() == near.names()
    for event in ("on_step_end", "on_round_begin"):
        assert sorted(map(str, far.of(event))) == sorted(map(str, near.of(event)))
    assert [logs["eval/perplexity"] for _, logs in far.of("on_log")] == [
        logs["eval/perplexity"] for _, logs in near.of("on_log")
    ]

"""The state of a run, read from its folder while it is written: what the live page shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from splitft.errors import JobError
from splitft.tools.watch.delta import difference
from splitft.tools.watch.folders import check_folders, find_runs, names_of
from splitft.tools.watch.state import RunState, encoded
from watched_runs import (
    HOSTILE,
    add_decision,
    add_round,
    decision,
    live,
    lock,
    record,
    states,
    write,
    write_run,
)

NAMES = ("north", "south", "east")
FIRST = dict.fromkeys(NAMES, 3)
SECOND = {**FIRST, "south": 5}


def looked(run: RunState, **now: float) -> dict[str, Any]:
    run.look()
    return run.state(**now)


def dead_process() -> int:
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def test_an_old_folder_without_a_live_file_shows_all_that_it_has(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "old", [FIRST, FIRST, SECOND], devices=["phone", "laptop", "desk"])
    write(folder, "summary.json", {"interrupted": False, "rounds": 2, "blocks": 8})
    found = looked(RunState(folder, "old"))
    assert (found["status"]["state"], found["names"], found["blocks"]) == ("finished", list(NAMES), 8)
    assert found["devices"] == ["phone", "laptop", "desk"]
    assert [entry["change"] for entry in found["rounds"]] == [None, -0.1, -0.2]
    assert found["levels"] == [[50.0, 0.0], [45.0, 0.0], [40.5, 0.0]]
    assert [entry["cuts"] for entry in found["rounds"]] == [[3, 3, 3], None, [3, 5, 3]]
    (moved,) = [entry for entry in found["decisions"][1]["clients"] if entry["from"] != entry["to"]]
    assert moved == {"client": 1, "why": "target 5: 3 -> 5", "from": 3, "to": 5}
    assert found["bytes"] == {"up": {"activations": 2700, "evaluation": 300}, "down": {"gradients": 1500}}
    assert found["clients"]["1"] == {"cut": 5, "loss": 3.0, "perplexity": 40.5}
    assert found["waiting_for"] == [] and found["privacy"] == {}


def test_a_run_is_followed_line_by_line_and_a_torn_line_comes_later(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [FIRST])
    run = RunState(folder, "run")
    assert len(looked(run)["rounds"]) == 1 and run.look() is False
    line = record(1, SECOND, 45.0).to_json() + "\n"
    with (folder / "history.jsonl").open("a") as file:
        file.write(line[:40])
        file.flush()
        assert len(looked(run)["rounds"]) == 1
        file.write(line[40:])
    before = run.state()
    after = looked(run)
    assert len(after["rounds"]) == 2
    changed = difference(before, after)
    assert changed["more"] == {"rounds": after["rounds"][1:]} and changed["clients"].keys() == {"0", "1", "2"}
    assert "names" not in changed["set"]
    # Taken back by --resume: the file is another one, and shorter.
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "new").write_text(lines[0])
    (folder / "new").replace(folder / "history.jsonl")
    back = looked(run)
    assert back["rounds"] == before["rounds"] and back["bytes"] == before["bytes"]
    assert difference(after, back)["set"]["rounds"] == before["rounds"]


def test_decisions_and_rounds_begin_anew_together(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [FIRST, SECOND])
    run = RunState(folder, "run")
    whole = looked(run)
    for name in ("history.jsonl", "decisions.jsonl"):  # one after the other, with a look between
        (folder / "new").write_text((folder / name).read_text())
        (folder / "new").replace(folder / name)
        assert looked(run) == whole


def test_a_run_under_way_says_who_does_what(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [FIRST])
    lock(folder, os.getpid())
    now = live(FIRST, cohort=["north", "south"])
    now["clients"]["south"]["step"] = 1  # of two
    write(folder, "live.json", now)
    found = looked(RunState(folder, "run"))
    assert found["status"]["state"] == "running" and found["status"]["step"] == 2
    rows = found["clients"]
    doing = [rows[str(place)]["state"] for place in range(3)]
    assert doing == ["training", "done with its steps", "not in this round"]
    assert (rows["0"]["up"], rows["0"]["tokens_per_second"], rows["0"]["loss"]) == (700, 64.0, 2.5)
    assert found["bytes"]["up"] == {"activations": 7000}


def test_the_decision_for_the_round_under_way_is_shown_before_it_is_recorded(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [FIRST, FIRST])
    run = RunState(folder, "run")
    counts = {"moved": 700, "stayed": 300}  # of whom not all are told
    made = json.loads(decision(2, FIRST, SECOND).to_json()) | counts
    write(folder, "live.json", live(SECOND, round_=2, decision=made))
    (_, now) = looked(run)["decisions"]
    assert (now["round"], now["moved"], now["stayed"]) == (2, 700, 300)
    assert now["clients"][0]["why"] == "target 5: 3 -> 5"
    add_decision(folder, decision(2, FIRST, SECOND))
    assert [made["round"] for made in looked(run)["decisions"]] == [1, 2], "told once"


def test_a_run_over_a_network_says_who_is_waited_for_and_why(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [FIRST], network={"clients": list(NAMES)})
    lock(folder, os.getpid())
    members = {name: {"standing": "training", "reason": "", "diverged": False} for name in NAMES}
    members["east"] |= {"standing": "away", "reason": "its connection is lost"}
    write(folder, "members.json", members)
    write(folder, "live.json", live(FIRST, waiting_for=["south", "east"]))
    found = looked(RunState(folder, "run"))
    assert [found["names"][place] for place in found["waiting_for"]] == ["east", "south"]
    assert found["clients"]["2"]["reason"] == "its connection is lost"
    assert states(found) == {"training": 2, "away": 1}


def test_before_the_first_round_the_invited_are_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    run = RunState(folder, "run")
    assert looked(run)["status"]["state"] == "unknown"
    lock(folder, os.getpid())
    assert looked(run)["status"]["state"] == "preparing"
    members = {"north": {"standing": "ready", "reason": ""}, "south": {"standing": "invited", "reason": ""}}
    write(folder, "members.json", members)
    found = looked(run)
    assert found["status"]["state"] == "waiting"
    assert [found["names"][place] for place in found["waiting_for"]] == ["south"]


def test_a_process_that_was_killed_is_told_from_one_that_says_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [FIRST])
    write(folder, "live.json", live(FIRST))
    lock(folder, os.getpid())
    os.utime(folder / ".lock", (0, 0))
    run = RunState(folder, "run")
    written = (folder / "live.json").stat().st_mtime
    assert looked(run, now=written + 5)["status"]["state"] == "running"
    assert looked(run, now=written + 60)["status"]["state"] == "silent"
    process = dead_process()
    lock(folder, process)
    os.utime(folder / ".lock", (0, 0))
    assert looked(run, now=written + 5)["status"]["state"] == "running", "in another container, perhaps"
    lost = looked(run, now=written + 10)["status"]
    assert lost["state"] == "lost" and str(process) in lost["reason"]
    (folder / ".lock").unlink()
    write(folder, "live.json", live(FIRST, phase="stopped", reason="interrupted"))
    assert looked(run)["status"] | {"at": 0} == {
        "state": "stopped",
        "phase": "stopped",
        "reason": "interrupted",
        "round": 1,
        "step": 1,
        "started": 1.0,
        "at": 0,
        "seconds_left": 60.0,
        "tokens_per_second": 128.0,
        "remote": False,
    }


def test_what_files_hold_is_checked_and_names_become_plain(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [{HOSTILE: 3, "b": 4}])
    with (folder / "history.jsonl").open("a") as file:
        file.write(
            '[1, 2]\nnot json\n{"round": "x", "clients": [1], "bytes": 7, "cuts": {"b": "9"}, "privacy": 3}\n'
        )
    add_decision(folder, decision(1, {HOSTILE: 3}, {HOSTILE: 4}))
    write(folder, "members.json", {HOSTILE: {"standing": ["x"], "reason": 5}, "b": "no object"})
    write(
        folder,
        "live.json",
        live({"b": 4}) | {"cohort": "b", "clients": [], "notices": [[None, 3], 7, ["x", "y"]]},
    )
    write(folder, "summary.json", {"diverged": 12, "interrupted": "x"})
    found = looked(RunState(folder, "run"))
    assert json.loads(encoded(found)) == found
    assert found["names"][1] == "<img src=x onerror=alert(1)>  [31m", "printable, and shown as text alone"
    assert "history.jsonl: 2 damaged lines passed over" in [line["text"] for line in found["log"]]


def test_privacy_is_shown_where_a_round_has_a_reading(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [FIRST])
    line = json.loads(record(1, FIRST, 45.0).to_json()) | {"privacy": {"epsilon": 3.25, "method": "dp"}}
    with (folder / "history.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert looked(RunState(folder, "run"))["privacy"] == {"epsilon": 3.25, "method": "dp"}


def test_waits_by_the_virtual_clock(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [FIRST])
    made = record(
        1, FIRST, 45.0, virtual_seconds=9.0, waited_for="east", queued_behind={"north": {"south": 2.0}}
    )
    line = json.loads(made.to_json())
    parts = {"compute": 1.0, "transfer": 2.0, "server": 3.0, "queued": 2.0, "idle": 1.0, "finished": 8.0}
    for own in line["clients"].values():
        own["virtual"] = parts
    with (folder / "history.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    found = looked(RunState(folder, "run"))
    assert found["times"]["queued"] == [(0, 1, 2.0)] and found["times"]["waited_for"] == 2
    assert found["times"]["parts"]["0"] == [1.0, 2.0, 3.0, 2.0, 1.0] and found["waits"] == {"2": 1}


def test_a_thousand_clients_are_a_small_state_and_a_small_difference(tmp_path: Path) -> None:
    many = {f"client-{i}": 3 for i in range(1000)}
    moved = {name: cut + 1 for name, cut in many.items()}
    folder = write_run(tmp_path / "run", [many, moved])
    write(folder, "live.json", live(moved))
    run = RunState(folder, "run")
    before = looked(run)
    assert len(encoded(before)) < 400_000
    assert (before["decisions"][0]["moved"], len(before["decisions"][0]["clients"])) == (1000, 40)
    now = live(moved)
    now["clients"]["client-7"]["loss"] = 1.5
    write(folder, "live.json", now)
    changed = difference(before, looked(run))
    assert changed["clients"].keys() == {"7"} and len(encoded(changed)) < 1000
    add_round(folder, record(2, moved, 40.0))
    assert looked(run)["rounds"][-1]["cuts"] is None, "cuts that stay are not said again"


def test_runs_are_found_below_a_folder_and_named_apart(tmp_path: Path) -> None:
    for name in ("x/runs/a", "x/runs/b", "y/runs/a", "z/.hidden/c"):
        write_run(tmp_path / name, [FIRST])
    (tmp_path / "x/runs/a/checkpoints/deep").mkdir(parents=True)
    found = find_runs([tmp_path, tmp_path / "x/runs/a"])
    assert list(names_of(found).values()) == ["x/runs/a", "x/runs/b", "y/runs/a"]
    check_folders([tmp_path / "x/runs/a"])
    with pytest.raises(JobError, match="holds no run"):
        check_folders([tmp_path / "z"])
    with pytest.raises(JobError, match="is no folder"):
        check_folders([tmp_path / "nowhere"])


def test_the_state_needs_no_torch() -> None:
    script = "import splitft.tools.watch.server, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0

"""Clients that come and go: the record of cohorts, standings, and the states that they leave behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from splitft.engines.network.cohorts import COHORTS, CohortLog, read_counted
from splitft.engines.network.control import Load, Save
from splitft.engines.network.membership import MEMBERS, ThrottledMembers, missing
from splitft.engines.network.roster import Roster, go_back, leave_unsaved
from splitft.engines.network.round_steps import RoundSteps
from splitft.engines.network.saving import SavingConnected
from splitft.errors import JobError
from splitft.job.sections import NetworkConfig
from splitft.wire.messages import AdapterDown

CONNECTED = NetworkConfig(sampling="connected", over_selection=2.0)


def hand_out(round_: int) -> AdapterDown:
    return AdapterDown(round_, 1, (), (), ())


def roster_of(count: int, **own: Any) -> Roster:
    made = Roster([f"c{i}" for i in range(count)], CONNECTED, lambda: 0.0, **own)
    for member in made.values():
        member.join("session")
        member.take_part()
        member.owes = None
    return made


def test_the_last_lines_of_a_round_hold(tmp_path: Path) -> None:
    log = CohortLog(tmp_path)
    log.draw(1, ["a", "b", "c"], 5)
    log.draw(1, ["a", "b", "c"], 7)  # again, after a restart: the same
    log.count(1, ["a", "c"])
    log.draw(2, ["b"], 5)
    with (tmp_path / COHORTS).open("a") as file:
        file.write('{"event": "counted", "rou')  # torn by a crash
    again = CohortLog(tmp_path)
    assert (again.due(1), again.due(2), again.due(3)) == (["a", "c"], ["b"], [])
    assert len((tmp_path / COHORTS).read_text().splitlines()) == 4
    again.draw(1, ["a", "b"], 2)  # other clients were there
    assert again.due(1) == ["a", "b"] and CohortLog(tmp_path).due(1) == ["a", "b"]
    assert read_counted(tmp_path / COHORTS) == {1: ["a", "c"]}
    again.lose(2, "b")
    with pytest.raises(JobError, match="b lost its state in round 2"):
        read_counted(tmp_path / COHORTS)
    with pytest.raises(JobError, match=r"no cohorts\.jsonl"):
        read_counted(tmp_path / "nothing")


def test_a_client_that_left_goes_on_from_what_it_has_on_its_disk() -> None:
    member = roster_of(1)["c0"]
    member.save(3, exact=True)
    assert not member.unsaved and member.wanted == Load(3, False)
    # It is drawn in round 7, and leaves before its steps count: the state before the round.
    member.hand_out(hand_out(7), False)
    assert member.unsaved
    leave_unsaved(member)
    assert not member.unsaved and member.wanted == Load(3, False)
    # In round 8 its steps count, and it leaves before it has saved: the state as it sent its adapters.
    member.hand_out(hand_out(8), False)
    member.finish()
    assert member.wanted == Load(8, True)
    leave_unsaved(member)
    assert member.wanted == Load(8, True) and member.done == 9
    # It is drawn again, and leaves again; and the server is started again.
    member.hand_out(hand_out(11), False)
    assert member.wanted == Load(8, True)
    leave_unsaved(member)
    assert not go_back(roster_of(0).get("c0", member), 9, True, trained_last=True) or member.owes
    assert member.wanted == Load(8, True)
    member.save(12, exact=True)
    assert member.wanted == Load(12, False)


@pytest.mark.parametrize("cut_rank", [None, 4, 2])
def test_nobody_waits_for_those_that_are_away_or_late(cut_rank: int | None) -> None:
    """Of six: saves, is away after its steps, is away before, is late, was not drawn, and never came."""
    roster = roster_of(6)
    saves, trained, away, late, idle, _ = roster.values()
    roster["c5"].session, roster["c5"].there, roster["c5"].connected = "", False, False
    for member in (saves, trained, away, late):
        member.hand_out(hand_out(4), False)
    for member in (saves, trained):
        member.finish()
    for member in (trained, away):
        member.connect(False)
    late.mute()
    sent: list[tuple[str, Any]] = []

    def wait(done: Any, names: Any, seconds: Any) -> None:
        assert names == ["c0"] and not done("c0")
        saves.save(5, exact=True)
        assert done("c0")

    members: Any = SimpleNamespace(
        roster=roster, during=lambda phase: MagicMock(), wait=wait,
        send=lambda name, message: sent.append((name, message)),
        coordinator=SimpleNamespace(
            settings=SimpleNamespace(lora_r=4, lora_r_cut=cut_rank), blocks=MagicMock()
        ),
    )  # fmt: skip
    SavingConnected(members, 5).run()
    assert sent == [("c0", Save(5))]
    forgotten = [call.args[0] for call in members.coordinator.blocks.forget.call_args_list]
    assert forgotten == ["c1", "c2", "c3"] and not any(member.unsaved for member in roster.values())
    lost = Load(0, False)
    wanted = [Load(5, False), Load(4, True), lost, lost, lost, lost]
    if cut_rank == 2:  # the state of one round does not go with the adapter of another
        wanted[1] = lost
    assert [member.wanted for member in roster.values()] == wanted
    assert trained.exact == (cut_rank != 2) and idle.exact


def test_a_round_is_full_once_as_many_have_trained_as_count() -> None:
    roster = roster_of(6, per_round=2)
    steps = RoundSteps(1, ["c0", "c1", "c2", "c3"])
    assert roster.fewest == 2 and not steps.full(roster) and not steps.over(roster)
    steps.trained |= {"c1", "c3"}
    assert steps.full(roster) and not steps.over(roster)
    steps.left_out |= {"c0", "c2"}
    assert steps.over(roster) and not steps.short(roster)
    roster["c1"].expel("why", False)
    assert steps.short(roster)


def test_standings_are_written_now_and_then_and_an_expulsion_at_once(tmp_path: Path) -> None:
    now, roster = [0.0], roster_of(2)
    roster["c1"].session, roster["c1"].there, roster["c1"].took_part = "", False, False
    write = ThrottledMembers(tmp_path, lambda: now[0])
    write(roster)
    (tmp_path / MEMBERS).unlink()
    write(roster)
    assert not (tmp_path / MEMBERS).exists()
    now[0] = 1.5
    write(roster)
    assert "c0" in (tmp_path / MEMBERS).read_text() and "c1" not in (tmp_path / MEMBERS).read_text()
    roster["c0"].expel("it lies", False)
    write(roster)
    assert "it lies" in (tmp_path / MEMBERS).read_text()
    assert missing(roster, open_=True) == {"c0": "expelled: it lies"}
    assert missing(roster)["c1"] == "it never came"

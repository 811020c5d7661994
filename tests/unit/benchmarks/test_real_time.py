"""The arithmetic of the benchmark of real seconds: quotas, cgroup files, time to a perplexity, profiles."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from repository import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from benchlib import quotas as quotas_module
from benchlib.quotas import NoQuotasError, Quotas, Used, check_sum, find_parent, limit_files, open_quotas
from benchlib.real_figures import (
    MAKESPAN,
    SAME,
    against_clock,
    compare,
    curves_agree,
    page_rows,
    profiles,
    rates,
    schedule_of,
    seconds_to,
    shares,
    work_of,
)

from splitft.devices.profile import client_devices, resolve_device
from splitft.job import Job

SPEEDS = (1.0, 1.68, 2.83, 4.76, 8.0)


def run_of(*perplexities: float | None, pace: float = 10.0, start: float = 5.0) -> dict[str, Any]:
    """A run whose rounds end every `pace` seconds."""
    rows = [
        {
            "round": number, "seconds": pace * (number + 1), "perplexity": perplexity,
            "round_seconds": pace * 0.8 if number else 0.0, "evaluation_seconds": pace * 0.1,
            "cuts": {"a": 8, "b": max(1, 8 - number)},
        }
        for number, perplexity in enumerate(perplexities)
    ]  # fmt: skip
    return {"start_seconds": start, "seconds": rows[-1]["seconds"], "rounds": rows}


# Quotas


def test_quotas_lie_as_far_apart_as_the_devices() -> None:
    found = shares(0.16, SPEEDS)
    assert found[0] / found[-1] == pytest.approx(8)
    assert found == sorted(found, reverse=True)
    check_sum({"server": 1.2, **dict(zip("abcde", found, strict=True))}, 0.1, 2)
    with pytest.raises(NoQuotasError, match="do not fit 2"):
        check_sum({"server": 1.6, **dict(zip("abcde", found, strict=True))}, 0.1, 2)


def test_both_versions_write_the_same_share_and_no_smaller_one_than_the_kernel_takes() -> None:
    assert limit_files(1, 0.02, 0.05) == {"cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "1000"}
    assert list(limit_files(1, 1.2)) == ["cpu.cfs_period_us", "cpu.cfs_quota_us"], "the period first"
    assert limit_files(2, 1.2, 0.05) == {"cpu.max": "60000 50000"}
    with pytest.raises(ValueError, match="less than 1 ms"):
        limit_files(1, 0.01, 0.05)


def test_version_1_is_found_and_its_files_are_written(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    monkeypatch.setattr(quotas_module, "cpu_seconds", lambda pid: pid / 1000)
    assert find_parent(tmp_path) == (tmp_path / "cpu", 1)
    quotas = Quotas(tmp_path / "cpu" / "own", 1)
    quotas.folder.mkdir()
    quotas.add("server", 0.5, 4000)
    group = quotas.folder / "server"
    (group / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 2000000000\n")
    assert (group / "cgroup.procs").read_text() == "4000"
    assert (group / "cpu.cfs_quota_us").read_text() == "250000"
    assert quotas.used() == {"server": Used(4.0, 10, 4, 2.0)}
    quotas.lift()
    assert (group / "cpu.cfs_quota_us").read_text() == "-1"


def test_version_2_makes_groups_beside_the_own_one(tmp_path: Path, monkeypatch: Any) -> None:
    own = tmp_path / "own"
    own.write_text("0::/user/shell\n")
    user = tmp_path / "user"
    (user / "shell").mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu io")
    (user / "cgroup.controllers").write_text("cpu io")
    assert find_parent(tmp_path, own) == (user, 2)
    (user / "cgroup.controllers").write_text("io")
    with pytest.raises(NoQuotasError, match="no cpu controller"):
        find_parent(tmp_path, own)

    monkeypatch.setattr(quotas_module, "cpu_seconds", lambda pid: 1.5)
    quotas = Quotas(user / "groups", 2)
    quotas.folder.mkdir()
    quotas.add("a", 0.25, 7)
    (quotas.folder / "a" / "cpu.stat").write_text(
        "usage_usec 9\nnr_periods 3\nnr_throttled 2\nthrottled_usec 500000\n"
    )
    assert quotas.used() == {"a": Used(1.5, 3, 2, 0.5)}
    assert quotas.used()["a"].since(Used(1.0, 1, 0, 0.0)) == Used(0.5, 2, 2, 0.5)
    quotas.lift()
    assert (quotas.folder / "a" / "cpu.max").read_text() == "max"


def test_a_machine_without_quotas_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoQuotasError, match="needs Linux"), open_quotas(tmp_path):
        raise AssertionError


# Figures


def test_a_perplexity_is_reached_at_the_end_of_the_round_that_shows_it() -> None:
    run = run_of(90.0, None, 70.0, None, 60.0)
    assert [seconds_to(run, target) for target in (95.0, 70.0, 69.9, 60.0, 59.0)] == [10, 30, 50, 50, None]


def test_arms_are_compared_by_seed_with_and_without_the_start() -> None:
    same = {"42": run_of(90.0, 60.0, pace=40.0), "43": run_of(80.0, 50.0, pace=60.0)}
    quick = {"42": run_of(90.0, 60.0, pace=10.0), "43": run_of(80.0, 50.0, pace=10.0)}
    found = compare({SAME: same, MAKESPAN: quick})
    assert found[SAME]["sooner"]["all"] == [1.0, 1.0]
    assert found[MAKESPAN]["sooner"]["all"] == [4.0, 6.0]
    assert found[MAKESPAN]["sooner"]["low"] < 5.0 < found[MAKESPAN]["sooner"]["high"]
    assert found[MAKESPAN]["sooner_with_start"]["all"] == [85 / 25, 125 / 25]
    never = compare({SAME: same, MAKESPAN: {"42": run_of(90.0, 61.0)}})
    assert never[MAKESPAN] == {"seeds": ["42"], "seconds": [None]}


def test_one_bit_of_one_perplexity_is_seen() -> None:
    assert curves_agree([run_of(90.0, None, 60.0), run_of(90.0, None, 60.0, pace=3.0)])
    assert not curves_agree([run_of(90.0, None, 60.0), run_of(90.0, None, 60.00000000000001)])


def test_a_core_s_rate_is_work_over_cpu_seconds_and_a_device_has_its_share() -> None:
    free = [{"server": 4.0, "a": 1.0, "b": 1.0, "wall": 6.0}]
    clients = {
        "a": {"virtual": {"compute": 0.1, "server": 0.2}},
        "b": {"virtual": {"compute": 0.3, "server": 0.6}},
    }
    rate = rates(free, work_of([{"clients": clients}], 1e12))
    assert rate == {"client": pytest.approx(2e11), "server": pytest.approx(2e11), "server_cores": 1.0}
    # Two threads that use 1.6 cores: the server gets no more of its quota than that.
    rate = rates([{"server": 8.0, "a": 1.0, "b": 1.0, "wall": 7.0}], work_of([{"clients": clients}], 2e12))
    assert rate == {"client": pytest.approx(4e11), "server": pytest.approx(2e11), "server_cores": 1.6}
    for quota, used in ((1.2, 1.2), (1.9, 1.6)):
        keys = profiles(rate, {"server": quota, "a": 0.1}, {"a": 50.0}, 20.0)
        assert keys["device_profiles"]["this-server"]["flops"] == pytest.approx(2e11 * used)
    rate = {"client": 2e11, "server": 2e11, "server_cores": 1.4}
    keys = profiles(rate, {"server": 1.2, "a": 0.1, "b": 0.02}, {"a": 50.0, "b": 5.0}, 20.0)
    job = Job(model_name_or_path="x", dataset_name="y", clients=2, network={"clients": ["a", "b"]}, **keys)
    devices = client_devices(job, ["a", "b"])
    assert devices["a"].flops == pytest.approx(2e10) and devices["b"].flops == pytest.approx(4e9)
    assert devices["b"].uplink_bytes_per_second == 5e6 / 8
    assert resolve_device(job.server_device, job.device_profiles).flops == pytest.approx(2.4e11)


def test_the_clock_is_compared_round_by_round_with_the_cuts_that_were_taken() -> None:
    run = run_of(90.0, 80.0, 70.0)
    assert schedule_of(run) == {"1": [8, 7], "2": [8, 6]}
    records = [{"round": r, "virtual_seconds": s} for r, s in enumerate([0.0, 8.8, 7.2])]
    found = against_clock(run, records)
    assert found["of_all"] == pytest.approx(0.0)
    assert found["mean_of_rounds"] == pytest.approx(0.1)


@pytest.mark.parametrize("record", ["real_time", "real_time_again"])
def test_the_pages_table_is_the_record(record: str) -> None:
    kept = json.loads((ROOT / f"benchmarks/records/{record}.json").read_text(encoding="utf-8"))
    assert kept["equal"] and len(kept["arms"][SAME]["seeds"]) >= 3
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in page_rows(kept) if row not in page] == []
    assert kept["arms"] == compare({arm: runs for arm, runs in kept["runs"].items() if runs})


def test_of_the_measured_runs_the_figures_in_words_are_right() -> None:
    """Makespan is 2.5 times sooner in each pair; the clock is within 11 % of each run measured again."""
    kept = [json.loads((ROOT / f"benchmarks/records/{name}.json").read_text(encoding="utf-8"))
            for name in ("real_time", "real_time_again")]  # fmt: skip
    pairs = [one for record in kept for one in record["arms"][MAKESPAN]["sooner"]["all"]]
    assert len(pairs) == 6 and min(pairs) > 2.5 and f"{median(pairs):.2f}" == "2.81"
    clock = [one["of_all"] for of in kept[1]["clock"].values() for one in of.values()]
    assert len(clock) == 6 and max(map(abs, clock)) < 0.1105
    rows = [[run["rounds"][-1]["perplexity"] for of in record["runs"].values() for run in of.values()]
            for record in kept]  # fmt: skip
    assert set(rows[0]) == set(rows[1]), "the same bits in both measurements"

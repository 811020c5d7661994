"""Seconds by the wall's clock, not simulated: one cut for all against cuts that follow the devices.

One `splitft server` and five `splitft client` processes on this machine, each in a cgroup with a CPU quota;
every client dials through a TCP proxy that holds back what passes, as a link of its own does. Quotas lie 8:1
apart, links 10:1; the slowest device has the slowest link. The quotas of all, and room for the proxies, are
less than the machine's cores, so that the quotas and not the scheduler decide: what each process used, in
how many periods it used its quota up, and what else ran on the machine, is measured and written down.

The job is the study's (recipe `study-smollm2`, alpha 0.1): SmolLM2-135M in bfloat16, batches of 4 rows of 48
tokens, one trunk adapter a client, the full rank at the cut and no codec on the wire (int8 would round at the
cut, wherever that lies), so that cuts change time and traffic but no bit of the result; perplexities of all
arms must be equal to the last bit. Three arms:

    same cut    8 blocks on every client
    splitft     the paper's rule, cuts from measured times and accuracies
    makespan    the least predicted step time, from measured times

Adaptive arms begin at 8 blocks, too, and know nothing before the first round has been measured. Figure: how
many times sooner each reaches the perplexity of the same cut's last evaluation, in seconds on the wall,
paired by seed. A run's seconds count from the moment at which all clients are ready, and contain everything
from then on: evaluations, hand-outs, checkpoints, the rounds before anything was measured. What comes before
(start of the processes, imports, weights, the proof) is not under quotas, since importing a library on a
hundredth of a core says nothing about training; `with start-up` adds these seconds, as they were.

Beside it: the virtual clock. Each arm's job is run again in one process with the cuts that it took, devices
with the FLOP/s of this machine's core (measured without quotas just before each run, since machines are
not equally fast at all times; counted as the clock counts) times the quotas, and the links. The server has no
more cores than its two threads were seen to use in that measurement, which is less than its quota. Virtual
and real seconds of the training rounds are compared; evaluation takes no virtual time.

    python benchmarks/real_time.py [--seeds 3] [--rounds 12] [--steps 2] [--server 1.5] [--fastest 0.1]

The machine must have nothing else to do. It goes on where it was interrupted. Linux, as root (or where
cgroups can be written).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchlib.processes import Link
from benchlib.quotas import NoQuotasError, check_sum, find_parent
from benchlib.real_figures import (
    MAKESPAN,
    SAME,
    SPLITFT,
    against_clock,
    compare,
    curves_agree,
    page_rows,
    profiles,
    rates,
    schedule_of,
    shares,
    work_of,
)
from benchlib.real_pictures import draw
from benchlib.real_runs import SERVER, Party, run_free, run_real, run_whole
from benchlib.record import RESULTS, save, table
from studylib.sweeps import LINKS_MBPS, PARTITIONS, SKEWED, SPEEDS

from splitft import load_job

NAMES = [f"client-{i}" for i in range(len(SPEEDS))]
ROOM = 0.1  # of a core: for the proxies and this process
RTT_MS = 20.0
UNIT = 1e12  # FLOP/s of every device where only the work is asked for
ARMS: dict[str, dict[str, Any]] = {
    SAME: {"method": "same_split"},
    SPLITFT: {"method": "splitft", "cut_policy": {"method": "splitft"}},
    MAKESPAN: {"method": "splitft", "cut_policy": {"method": "makespan"}},
}


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keys that all arms share, beside the recipe's."""
    return {
        "clients": len(NAMES), "cuts": 8, "lora_r_cut": 16, "server_adapter": "per_client", "codec": "none",
        **PARTITIONS[SKEWED], "rounds": options.rounds, "local_steps": options.steps,
        "eval_every": options.eval_every, "max_eval_samples": options.eval_rows, "devices": None,
    }  # fmt: skip


def job_of(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole job of the study with these keys, dotted ones nested."""
    flat = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
    return load_job("study-smollm2", flat).model_dump(exclude_unset=True)


def parties_of(options: argparse.Namespace) -> list[Party]:
    clients = zip(NAMES, shares(options.fastest, SPEEDS), LINKS_MBPS, strict=True)
    server = Party(SERVER, options.server, threads=options.server_threads)
    return [server, *(Party(name, cores, Link(mbit, RTT_MS)) for name, cores, mbit in clients)]


class Measurement:
    """What has been measured so far, kept in a file. scratch: for the runs' folders."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options, self.scratch, self.parties = options, scratch, parties_of(options)
        self.cores = {party.name: party.cores for party in self.parties}
        shown = {"job": settings_of(options), "cores": self.cores, "server_threads": options.server_threads,
                 "links_mbit": dict(zip(NAMES, LINKS_MBPS, strict=True)), "rtt_ms": RTT_MS}  # fmt: skip
        self.result: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
        if self.result.get("settings") != shown:
            self.result = {"settings": shown, "runs": {arm: {} for arm in ARMS}, "clock": {}, "rates": {}}

    def save(self) -> None:
        save(self.result, self.options.out)

    def measure(self, arm: str, seed: int) -> None:
        """Run an arm with a seed, unless it was."""
        if str(seed) in self.result["runs"][arm]:
            return
        keys = {**job_of({**settings_of(self.options), "seed": seed}), **ARMS[arm],
                "network": {"clients": NAMES}}  # fmt: skip
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            run = run_real(keys, self.parties, Path(folder) / "run")
        self.result["runs"][arm][str(seed)] = run
        self.save()
        cuts = ",".join(str(cut) for cut in run["rounds"][-1]["cuts"].values())
        print(
            f"{arm:<9} seed {seed}: {run['seconds']:6.1f} s, cuts in the end {cuts}; start-up "
            f"{run['start_seconds']:.0f} s; others used {run['others_cores']:.2f} cores, "
            f"the proxies {run['benchmark_cores']:.3f}",
            flush=True,
        )

    def calibrate(self, arm: str, seed: int) -> dict[str, float]:
        """Return the FLOP/s of a core, as a client and as the server use it, and the cores that it can use.

        Two rounds without quotas, measured once for each run, just before it. The clients take turns, so that
        one process computes at a time.
        """
        kept = self.result["rates"].setdefault(arm, {})
        if str(seed) not in kept:
            keys = {**job_of({**settings_of(self.options), "seed": 0}), **ARMS[SAME], "order": "turns",
                    "rounds": 4, "eval_every": 4, "max_eval_samples": 5}  # fmt: skip
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                free = run_free({**keys, "network": {"clients": NAMES}}, NAMES, Path(folder) / "free",
                                self.options.server_threads)  # fmt: skip
                one = dict.fromkeys(NAMES, 1.0) | {SERVER: 1.0}
                unit = {"client": UNIT, "server": UNIT, "server_cores": 1.0}
                devices = profiles(unit, one, dict.fromkeys(NAMES, 1e3), 1.0)
                whole = run_whole({**keys, **devices}, Path(folder) / "whole", os.cpu_count() or 1)
            # Not the first round, which warms up, nor the last, in which the server evaluates.
            work = work_of(whole[1:], UNIT)
            kept[str(seed)] = rates(free[1:3], work[1:3])
            self.save()
        found: dict[str, float] = kept[str(seed)]
        return found

    def simulate(self, arm: str, seed: int) -> None:
        """Run an arm's job in one process with the cuts that it took, for the virtual clock."""
        run, clock = self.result["runs"][arm][str(seed)], self.result["clock"].setdefault(arm, {})
        if str(seed) in clock:
            return
        mbits = dict(zip(NAMES, LINKS_MBPS, strict=True))
        keys = {
            **job_of({**settings_of(self.options), "seed": seed}),
            "method": "splitft", "cut_policy": {"method": "schedule", "schedule": schedule_of(run)},
            "eval_every": self.options.rounds, "max_eval_samples": 5,
            **profiles(self.calibrate(arm, seed), self.cores, mbits, RTT_MS),
        }  # fmt: skip
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            records = run_whole(keys, Path(folder) / "run", os.cpu_count() or 1)
        clock[str(seed)] = against_clock(run, records)
        self.save()


def show(result: Mapping[str, Any]) -> None:
    """Print the figures."""
    rows, found = [], result["arms"]
    for arm, of in found.items():
        if "sooner" not in of:
            reached = ", ".join("never" if s is None else f"{s:.0f}" for s in of["seconds"])
            rows.append((arm, reached, "", "", "", ""))
            continue
        clock = [c["of_all"] for c in result["clock"].get(arm, {}).values()]
        rows.append((
            arm, ", ".join(f"{s:.0f}" for s in of["seconds"]), _times(of["sooner"]),
            _times(of["sooner_with_start"]), ", ".join(f"{s:.0f}" for s in of["evaluation_seconds"]),
            ", ".join(f"{c:+.1%}" for c in clock),
        ))  # fmt: skip
    print(table(("arm", "s to the same perplexity", "times sooner", "with start-up", "evaluations, s",
                 "virtual clock"), rows))  # fmt: skip
    print("perplexities of the arms are", "equal, bit by bit" if result["equal"] else "NOT EQUAL")
    rows = []
    for arm, runs in result["runs"].items():
        for name in [SERVER, *NAMES]:
            own = [run["parties"][name] for run in runs.values()]
            if own:
                rows.append(
                    (
                        f"{arm}, {name}",
                        f"{own[0]['quota_cores']:.4f}",
                        ", ".join(f"{o['at_quota']:.1%}" for o in own),
                        ", ".join(f"{o['throttled'] / max(1, o['periods']):.0%}" for o in own),
                    )
                )
    print(table(("process", "quota", "at its quota, of the time", "used up, of its periods"), rows))


def _times(of: Mapping[str, Any]) -> str:
    if of["low"] is None:
        return f"{of['mean']:.2f}"
    return f"{of['mean']:.2f} ({of['low']:.2f} to {of['high']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2, help="local steps a round")
    parser.add_argument("--eval-every", type=int, default=2, help="rounds from one evaluation to the next")
    parser.add_argument("--eval-rows", type=int, default=20, help="held-out rows of all clients")
    parser.add_argument("--server", type=float, default=1.5, help="quota of the server, in cores")
    parser.add_argument("--server-threads", type=int, default=2, help="of torch")
    parser.add_argument("--fastest", type=float, default=0.1, help="quota of the fastest client, in cores")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--rates-only", action="store_true", help="only the FLOP/s of a core")
    parser.add_argument("--no-clock", action="store_true", help="without the virtual clock")
    parser.add_argument("--scratch", type=Path, help="folder for the runs' files; default: a temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS / "real_time.json")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that groups and processes end then, too
    try:
        find_parent()
        check_sum({party.name: party.cores for party in parties_of(options)}, ROOM, os.cpu_count() or 1)
    except NoQuotasError as error:
        parser.error(str(error))
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="real-time-"))
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        measured = Measurement(options, scratch)
        seeds = range(42, 42 + options.seeds)
        for seed in seeds:
            for arm in options.arms:
                if not options.no_clock:
                    rate = measured.calibrate(arm, seed)
                    print(
                        f"a core before {arm}: client {rate['client'] / 1e9:.1f} GFLOP/s, server "
                        f"{rate['server'] / 1e9:.1f}, which can use {rate['server_cores']:.2f} cores",
                        flush=True,
                    )
                if options.rates_only:
                    return
                measured.measure(arm, seed)
        for arm in options.arms if not options.no_clock else ():
            for seed in seeds:
                measured.simulate(arm, seed)
        result = measured.result
        by_seed = [[runs[seed] for runs in result["runs"].values() if seed in runs]
                   for seed in result["runs"][SAME]]  # fmt: skip
        result["equal"] = all(curves_agree(runs) for runs in by_seed)
        result["arms"] = compare({arm: runs for arm, runs in result["runs"].items() if runs})
        measured.save()
        show(result)
        print(*page_rows(result), sep="\n")
        draw(result, options.out.with_suffix(".svg"))
    finally:
        if options.scratch is None:
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()

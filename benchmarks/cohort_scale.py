"""One round of a cohort far larger than this machine: clients drawn from a mix of devices, without training.

Devices are drawn from the mix, batches from all training rows of the job, and cuts are those with which the
job's policy would start. Then one round is simulated: when clients are done, the server's load and memory,
and the traffic. A round that the server's memory does not hold is refused, and the clients that fit are told.

    python benchmarks/cohort_scale.py fixed-cuts max_train_samples=1000 --clients 10000 \\
        --mix phone=0.6,laptop=0.3,workstation=0.1 [--per-round 1000] [--out FOLDER]

JOB [key=value ...] as in `splitft plan`; --out: folder for plan.json and plan.png.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from splitft.common.figures import save_png, style, variant_colour
from splitft.common.files import writable_folder, write_atomically
from splitft.common.seeds import numpy_generator
from splitft.common.shares import largest_remainder
from splitft.common.tables import make_table
from splitft.cuts import ClientState, Observation, decide
from splitft.data import ClientData
from splitft.devices.costs import ModelCosts
from splitft.devices.device import Device
from splitft.devices.measure import model_costs
from splitft.devices.memory import highest_cut_in_memory, server_memory
from splitft.devices.profile import available_members, resolve_device
from splitft.devices.simulate import PARTS, RoundTimes, batch_shape
from splitft.devices.steps import StateSeconds, batch_bytes, client_state_seconds
from splitft.errors import JobError, SplitFTError
from splitft.history import strict_json
from splitft.job import Job, load_job
from splitft.running.machines import Machines
from splitft.running.prepare import assemble
from splitft.running.progress import seconds_text
from splitft.tools.plan.cuts import round_of, trace_of


@dataclass(frozen=True)
class CohortPlan:
    """One round. devices, cuts, finished (seconds): one entry for each client that is there."""

    clients: int
    present: int
    devices: list[str]
    cuts: list[int]
    finished: NDArray[np.float64]
    times: RoundTimes
    bytes_up: int
    bytes_down: int
    server_memory_bytes: int

    @property
    def server_load(self) -> float:
        """Share of the round in which the server computes."""
        return self.times.server_seconds / self.times.seconds if self.times.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "clients": self.clients,
            "present": self.present,
            "round_seconds": self.times.seconds,
            "server_seconds": self.times.server_seconds,
            "server_memory_bytes": self.server_memory_bytes,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "devices": self.devices,
            "cuts": self.cuts,
            "finished_seconds": self.finished.tolist(),
        }


def plan_cohort(
    job: Job, devices: Mapping[str, Device], console: Console, per_round: int | None = None
) -> CohortPlan:
    """Plan one round of a job for clients with these devices. Raises SplitFTError.

    per_round: clients of a round; None: the job's clients_per_round.
    """
    start = assemble(job, console, weights=False)
    return simulate(job, model_costs(start.model), start.clients, devices, per_round)


# The cohort


def parse_mix(text: str) -> dict[str, float]:
    """Read phone=0.6,laptop=0.4. Raises JobError."""
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = (word.strip() for word in part.partition("="))
        if name in mix:
            raise JobError(f"--mix {text}: {name} is given twice; give each device one share")
        try:
            mix[name] = float(share)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise JobError(f"--mix {text}: write devices with their shares: phone=0.6,laptop=0.4")
    return mix


def draw_cohort(job: Job, count: int, mix: Mapping[str, float]) -> dict[str, Device]:
    """Return {client: device} of `count` clients whose devices are drawn from `mix`.

    Raises JobError for a job without a split, on a mix that is none, and on unknown devices, whatever their
    share.
    """
    if not job.splits_model:
        raise JobError(f"a cohort is planned for a split, and method {job.method} has none")
    kinds = {name: resolve_device(name, job.device_profiles, key="--mix") for name in mix}
    drawn = draw_devices(mix, count, job.seed)
    return {f"client-{i}": kinds[kind] for i, kind in enumerate(drawn)}


def draw_devices(mix: Mapping[str, float], count: int, seed: int) -> list[str]:
    """Return the devices of `count` clients in random order, each as often as its share says.

    mix: {device: share}, shares of any positive sum; each number is exact to one client, so that a small
    cohort has the mix too. The same seed gives the same list, whatever the order of the mapping. Raises
    JobError on shares that are no shares.
    """
    if count < 1:
        raise JobError(f"cannot draw devices for {count} clients: give a number from 1 on")
    wrong = [f"{name}: {share}" for name, share in mix.items() if not (math.isfinite(share) and share >= 0)]
    if wrong or not sum(mix.values()) > 0:
        got = ", ".join(wrong) or dict(mix)
        raise JobError(f"device mix: shares must be numbers from 0 on, and not all 0; got {got}")
    names = sorted(mix)
    counts = largest_remainder(np.array([float(mix[name]) for name in names]), count)
    order = numpy_generator(seed, "devices").permutation(np.repeat(np.arange(len(names)), counts))
    return [names[i] for i in order.tolist()]


# The round


def simulate(
    job: Job,
    costs: ModelCosts,
    data: Sequence[ClientData],
    devices: Mapping[str, Device],
    per_round: int | None = None,
) -> CohortPlan:
    """Simulate the first round of clients with these devices.

    Raises JobError on a device or a policy that does not fit.
    """
    machines = Machines(devices, resolve_device(job.server_device, job.device_profiles), costs)

    # The members of the round.
    there = available_members(devices, list(devices), job.seed, 1)
    members = per_round or job.clients_per_round or len(there)
    if members < len(there):
        generator = numpy_generator(job.seed, "cohort", 1)
        chosen = generator.choice(len(there), members, replace=False)
        there = [there[i] for i in sorted(chosen.tolist())]
    if not there:
        raise JobError("no client is there in the first round: raise the availability of the devices")

    # Their batches and cuts, and the time that both take.
    batches = draw_batches(job, data, len(there))
    cuts = starting_cuts(job, machines, there, batches)
    memory = check_server_memory(job, machines, [cuts[name] for name in there])
    traces = [
        trace_of(job, costs, name, cuts[name], [(r, w, int(t)) for r, w, t in each.tolist()])
        for name, each in zip(there, batches, strict=True)
    ]
    times = round_of(job, machines, traces)
    return CohortPlan(
        len(devices),
        len(there),
        [devices[name].name for name in there],
        [cuts[name] for name in there],
        np.asarray([times.clients[name].finished for name in there]),
        times,
        sum(t.adapter_up_bytes + sum(sum(step.up_bytes) for step in t.steps) for t in traces),
        sum(t.adapter_down_bytes + sum(sum(step.down_bytes) for step in t.steps) for t in traces),
        memory,
    )


def check_server_memory(job: Job, machines: Machines, cuts: Sequence[int]) -> int:
    """Return the bytes that the server holds for a round of clients with these cuts.

    Raises JobError where its device does not hold them; it tells how many of the clients fit, whichever.
    """
    costs, server = machines.costs, machines.server
    needed = server_memory(costs, job, cuts).total
    if needed <= server.memory_bytes:
        return needed
    lowest_first = sorted(cuts)  # the lower a cut, the larger its trunk: so many fit whoever they are
    fits, too_many = 0, len(cuts)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if server_memory(costs, job, lowest_first[:middle]).total <= server.memory_bytes:
            fits = middle
        else:
            too_many = middle
    fewer = f"{fits:,} of them fit at once: give --per-round {fits}" if fits else "not even one of them fits"
    shared = "" if job.server_adapter == "shared" else ", server_adapter=shared"
    raise JobError(
        f"server_device {server.name} has {server.memory_bytes / 1e9:,.3g} GB of memory, but a round of "
        f"{len(cuts):,} clients needs about {needed / 1e9:,.1f} GB; {fewer}{shared}, or a larger device"
    )


def draw_batches(job: Job, data: Sequence[ClientData], clients: int) -> NDArray[np.float64]:
    """Return (clients, micro-batches, 3): rows, width (`batch_shape`) and tokens, drawn from all rows."""
    lengths = np.concatenate([client.train.lengths for client in data])
    steps = job.local_steps * job.gradient_accumulation_steps
    rows = min(job.per_device_train_batch_size, len(lengths))
    chosen = numpy_generator(job.seed, "plan").integers(len(lengths), size=(clients, steps, rows))
    drawn = lengths[chosen].tolist()
    shapes = [[(*batch_shape(batch, job.padding_free), sum(batch)) for batch in each] for each in drawn]
    return np.asarray(shapes, dtype=np.float64)


def starting_cuts(
    job: Job, machines: Machines, names: Sequence[str], batches: NDArray[np.float64]
) -> dict[str, int]:
    """Return the cuts of the job's policy in round 1; it starts from `cuts`, or from the mean of a list."""
    first = job.cuts if isinstance(job.cuts, int) else round(sum(job.cuts) / len(job.cuts))

    # Memory and seconds of every kind of device, for the mean batch.
    mean = batches.reshape(-1, 3).mean(0)
    rows, width, tokens = (mean if job.padding_free else np.round(mean)).tolist()
    up, down = batch_bytes(machines.costs, job, round(tokens))
    known: dict[Device, tuple[int, StateSeconds]] = {}
    for device in dict.fromkeys(machines.clients[name] for name in names):
        seconds = client_state_seconds(
            machines.costs, job, device, machines.server,
            rows=rows, width=width, up_bytes=up, down_bytes=down,
        )  # fmt: skip
        known[device] = highest_cut_in_memory(machines.costs, job, device), seconds

    # The policy's decision.
    states = []
    for name in names:
        most, seconds = known[machines.clients[name]]
        states.append(ClientState(name, min(first, most), most, None, *seconds))
    blocks = len(machines.costs.blocks) - job.num_tail_blocks
    observation = Observation(1, blocks, tuple(states), job.order, job.server_adapter)
    method = "fixed" if job.method == "same_split" else job.cut_policy.method
    return dict(decide(method, job.cut_policy, observation).cuts)


# For people


def cohort_tables(plan: CohortPlan) -> list[Table]:
    """Return, by kind of device, when clients are done, and where their time goes."""
    done = make_table(
        f"One round of {plan.present:,} of {plan.clients:,} clients: {seconds_text(plan.times.seconds)}",
        "device", "clients", "cut (median)", "half are done", "95 % are done", "all are done",
    )  # fmt: skip
    where = make_table("Where a client's seconds go (mean)", "device", *PARTS)
    times, names = list(plan.times.clients.values()), np.asarray(plan.devices)
    for kind, number in Counter(plan.devices).most_common():
        chosen = np.flatnonzero(names == kind)
        ends = [float(np.quantile(plan.finished[chosen], share)) for share in (0.5, 0.95, 1.0)]
        cut = f"{np.median(np.asarray(plan.cuts)[chosen]):g}"
        done.add_row(kind, f"{number:,}", cut, *(seconds_text(end) for end in ends))
        where.add_row(kind, *(f"{np.mean([getattr(times[i], part) for i in chosen]):.3g}" for part in PARTS))
    return [done, where]


def server_lines(plan: CohortPlan) -> list[str]:
    """Return the server's side of the round."""
    rate = (plan.bytes_up + plan.bytes_down) * 8 / plan.times.seconds / 1e9
    return [
        f"server: busy {100 * plan.server_load:.0f} % of the round, about "
        f"{plan.server_memory_bytes / 1e9:,.1f} GB of its memory",
        f"traffic: {plan.bytes_up / 1e9:,.2f} GB up, {plan.bytes_down / 1e9:,.2f} GB down, "
        f"{rate:.3g} Gbit/s on average at the server",
    ]


@style(9)
def cohort_picture(plan: CohortPlan, path: Path) -> None:
    """Write a PNG: when the clients of a round are done, by kind of device; and their cuts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    done, cuts = figure.subplots(1, 2, width_ratios=(3, 2))
    kinds = [kind for kind, _ in Counter(plan.devices).most_common()]
    colours = [variant_colour(number) for number in range(len(kinds))]
    names = np.asarray(plan.devices)
    edges = np.linspace(0, float(plan.finished.max()) * 1.0001, 41)
    parts = [plan.finished[names == kind] for kind in kinds]
    done.hist(parts, bins=edges, stacked=True, label=kinds, color=colours)
    done.set_xlabel("virtual seconds until a client is done")
    done.set_ylabel("clients")
    figure.legend(loc="outside lower center", ncols=min(len(kinds), 4))
    values = np.asarray(plan.cuts)
    bins = np.arange(values.min() - 0.5, values.max() + 1.5)
    cuts.hist([values[names == kind] for kind in kinds], bins=bins, stacked=True, color=colours)
    cuts.set_xlabel("cut (blocks on the client)")
    cuts.set_ylabel("clients")
    cuts.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(
        f"One round of {plan.present:,} clients: {plan.times.seconds:,.0f} s, server busy "
        f"{100 * plan.server_load:.0f} %",
        fontsize=11,
    )
    save_png(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("job", help="a job file, or the name of a recipe")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--per-round", type=int, help="clients of a round; default: the job's, or all")
    parser.add_argument("--mix", required=True, help="devices with their shares: phone=0.6,laptop=0.4")
    parser.add_argument("--out", type=Path)
    given = parser.parse_intermixed_args(arguments)
    console = Console()
    try:
        job = load_job(given.job, given.settings)
        if given.per_round is not None and given.per_round < 1:
            raise JobError(f"--per-round {given.per_round}: give a number from 1 on")
        devices = draw_cohort(job, given.clients, parse_mix(given.mix))
        folder = writable_folder(given.out, "--out") if given.out else None
        plan = plan_cohort(job, devices, console, given.per_round)
    except SplitFTError as error:
        raise SystemExit(f"error: {error}") from None
    for each in cohort_tables(plan):
        console.print(each)
    for line in server_lines(plan):
        console.print(line, highlight=False)
    if folder:
        write_atomically(folder / "plan.json", strict_json(plan.to_dict(), indent=1))
        cohort_picture(plan, folder / "plan.png")


if __name__ == "__main__":
    main()

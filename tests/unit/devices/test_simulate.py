"""Promises of the virtual clock: where a round's time goes, in each way that a server takes on clients.

Times are multiples of 1/8 and links carry 8 bytes a second, so that sums of them are exact.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.devices.device import Device
from splitft.devices.simulate import ClientTrace, RoundTimes, StepTrace, simulate_round
from splitft.devices.steps import StepSeconds

MODES: tuple[dict[str, Any], ...] = (
    {"order": "parallel", "server_adapter": "per_client"},
    {"order": "parallel", "server_adapter": "shared"},
    {"order": "turns", "server_adapter": "per_client"},
    {"order": "turns", "server_adapter": "shared"},
)
QUEUE, BARRIER, TURNS = MODES[0], MODES[1], MODES[2]
SERVER = Device("server", 1.0, 1, 8.0, 8.0, 0.0)
EIGHTHS = st.integers(0, 80).map(lambda n: n / 8)
BYTES = st.integers(0, 80)


@dataclass(frozen=True)
class Case:
    """A round to simulate: its traces, and the seconds of each step by (client, number of the step)."""

    traces: tuple[ClientTrace, ...]
    devices: dict[str, Device]
    seconds: dict[tuple[str, int], StepSeconds]

    def run(self, **mode: Any) -> RoundTimes:
        return simulate_round(self.traces, self.devices, SERVER, self.timing, **mode)

    def timing(self, trace: ClientTrace, step: StepTrace) -> StepSeconds:
        return self.seconds[trace.name, step.rows]

    def alone(self, name: str) -> float:
        """The closed formula of one client by itself."""
        (trace,) = (t for t in self.traces if t.name == name)
        messages = [trace.adapter_down_bytes, trace.state_up_bytes, trace.adapter_up_bytes]
        computing = 0.0
        for step in trace.steps:
            messages += [*step.up_bytes, *step.down_bytes]
            seconds = self.timing(trace, step)
            computing += sum(seconds.client) + sum(seconds.server)
        latency = self.devices[name].latency_seconds
        return computing + sum(latency + number / 8 for number in messages if number)

    def server_seconds(self, name: str) -> float:
        return sum(sum(s.server) for (client, _), s in self.seconds.items() if client == name)

    @property
    def names(self) -> list[str]:
        return [trace.name for trace in self.traces]


@st.composite
def cases(draw: st.DrawFn, server: Any = EIGHTHS, compute: Any = EIGHTHS, clients: int = 5) -> Case:
    """Clients with links of their own latency, and the same number of steps and legs each."""
    legs, steps = draw(st.integers(0, 2)), draw(st.integers(0, 4))
    traces, devices, seconds = [], {}, {}
    for index in range(draw(st.integers(1, clients))):
        name = f"c{index}"
        own = []
        for number in range(steps):
            up, down = ([draw(BYTES) for _ in range(legs)] for _ in range(2))
            own.append(StepTrace(number, 1, up, down))
            seconds[name, number] = StepSeconds(
                tuple(draw(compute) for _ in range(legs + 1)), tuple(draw(server) for _ in range(legs))
            )
        traces.append(ClientTrace(name, 1, draw(BYTES), own, draw(BYTES), draw(BYTES)))
        devices[name] = replace(SERVER, name=name, latency_seconds=draw(EIGHTHS))
    return Case(tuple(traces), devices, seconds)


MODE = st.sampled_from(MODES)


@settings(deadline=None)
@given(cases(), MODE)
def test_the_parts_of_every_client_sum_to_the_round_and_the_last_one_ends_it(
    case: Case, mode: dict[str, Any]
) -> None:
    times = case.run(**mode)
    assert list(times.clients) == case.names
    for client in times.clients.values():
        assert min(astuple(client)) >= 0
        assert client.compute + client.transfer + client.server + client.queued + client.idle == times.seconds
    finished = {name: client.finished for name, client in times.clients.items()}
    assert times.seconds == max(finished.values())
    assert times.waited_for == max(finished, key=lambda name: finished[name])  # the first of the last
    assert times.server_seconds == sum(client.server for client in times.clients.values())


@settings(deadline=None)
@given(cases(), MODE)
def test_all_waiting_before_the_end_is_for_someone(case: Case, mode: dict[str, Any]) -> None:
    times = case.run(**mode)
    for name, client in times.clients.items():
        behind = times.queued_behind.get(name, {})
        assert name not in behind
        assert sum(behind.values()) == client.queued + client.idle - (times.seconds - client.finished)
    assert replace(times, queued_behind={}) == case.run(**mode, pairs=False)


@settings(deadline=None)
@given(cases(clients=1), MODE)
def test_a_client_alone_takes_the_sum_of_what_it_does(case: Case, mode: dict[str, Any]) -> None:
    times = case.run(**mode)
    assert times.seconds == case.alone("c0")
    assert times.clients["c0"].queued == times.clients["c0"].idle == 0


@settings(deadline=None)
@given(cases())
def test_turns_take_the_sum_of_the_clients_alone(case: Case) -> None:
    assert case.run(**TURNS).seconds == sum(case.alone(name) for name in case.names)


@settings(deadline=None)
@given(cases(server=st.just(0.0)))
def test_with_an_infinitely_fast_server_the_slowest_client_is_the_round(case: Case) -> None:
    times = case.run(**QUEUE)
    assert times.seconds == max(case.alone(name) for name in case.names)
    assert all(client.queued == 0 for client in times.clients.values())


@settings(deadline=None)
@given(cases(server=st.just(0.0), compute=st.just(0.0)), MODE)
def test_without_computing_only_the_links_take_time(case: Case, mode: dict[str, Any]) -> None:
    for name, client in case.run(**mode).clients.items():
        assert (client.compute, client.server, client.queued) == (0, 0, 0)
        assert client.transfer == case.alone(name)


@settings(deadline=None)
@given(cases())
def test_a_queue_is_never_idle_while_someone_waits(case: Case) -> None:
    times = case.run(**QUEUE)
    alone = {name: case.alone(name) for name in case.names}
    last = times.waited_for
    assert last is not None
    others = sum(case.server_seconds(name) for name in case.names if name != last)
    assert max(*alone.values(), times.server_seconds) <= times.seconds <= alone[last] + others


@settings(deadline=None)
@given(cases())
def test_at_barriers_every_client_is_answered_after_the_work_for_all(case: Case) -> None:
    times = case.run(**BARRIER)
    for name, client in times.clients.items():
        assert client.queued == times.server_seconds - case.server_seconds(name)


@settings(deadline=None)
@given(cases(), st.sampled_from([BARRIER, TURNS]), st.data())
def test_a_faster_client_never_makes_barriers_or_turns_longer(
    case: Case, mode: dict[str, Any], data: st.DataObject
) -> None:
    # A queue in order of arrival promises no such thing: who comes earlier may push another back.
    name = data.draw(st.sampled_from(case.names))
    faster = {
        key: replace(s, client=tuple(c / 2 for c in s.client)) if key[0] == name else s
        for key, s in case.seconds.items()
    }
    assert replace(case, seconds=faster).run(**mode).seconds <= case.run(**mode).seconds


@settings(deadline=None)
@given(cases(server=st.just(0.0)), st.data())
def test_a_faster_client_never_makes_a_round_longer_where_nobody_queues(
    case: Case, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(case.names))
    faster = case.devices | {name: replace(case.devices[name], latency_seconds=0.0)}
    assert replace(case, devices=faster).run(**QUEUE).seconds <= case.run(**QUEUE).seconds


@settings(deadline=None)
@given(cases(), MODE)
def test_the_same_round_takes_the_same_time_whatever_the_order_of_the_devices(
    case: Case, mode: dict[str, Any]
) -> None:
    shuffled = replace(case, devices=dict(reversed(case.devices.items())))
    assert shuffled.run(**mode) == case.run(**mode) == case.run(**mode)


def case_of(*clients: tuple[list[float], list[float]], steps: int = 1) -> Case:
    """Clients without links to wait for: (seconds on the client, seconds at the server)."""
    traces, devices, seconds = [], {}, {}
    for index, (own, theirs) in enumerate(clients):
        name = f"c{index}"
        nothing = [0] * len(theirs)
        traces.append(ClientTrace(name, 1, 0, [StepTrace(n, 1, nothing, nothing) for n in range(steps)], 0))
        devices[name] = replace(SERVER, name=name)
        seconds |= {(name, n): StepSeconds(tuple(own), tuple(theirs)) for n in range(steps)}
    return Case(tuple(traces), devices, seconds)


def test_the_queue_serves_in_order_of_arrival_and_ties_in_the_clients_order() -> None:
    # c0 arrives at 2, c1 and c2 at 1: served c1 1-4, c2 4-7, c0 7-10.
    times = case_of(([2, 1], [3]), ([1, 1], [3]), ([1, 1], [3])).run(**QUEUE)
    assert {name: client.finished for name, client in times.clients.items()} == {"c0": 11, "c1": 5, "c2": 8}
    assert times.queued_behind == {"c0": {"c1": 2, "c2": 3}, "c2": {"c1": 3}}
    assert (times.seconds, times.waited_for) == (11, "c0")


def test_in_a_queue_no_client_waits_for_one_that_is_slow_elsewhere() -> None:
    times = case_of(([1, 1], [1]), ([50, 50], [1]), steps=3).run(**QUEUE)
    assert times.clients["c0"].finished == 9
    assert times.clients["c0"].idle == times.seconds - 9 == 294


def test_at_a_barrier_all_wait_for_the_slowest() -> None:
    times = case_of(([1, 1], [1]), ([5, 1], [1]), steps=2).run(**BARRIER)
    # Step 1: both there at 5, answered at 7. Step 2: c1 computes 1 + 5 and is there at 13, answered at 15.
    assert times.seconds == 16
    assert times.queued_behind == {"c0": {"c1": 4 + 1 + 4 + 1}, "c1": {"c0": 2}}


def test_the_last_backward_and_the_next_forward_share_one_round_trip() -> None:
    times = case_of(([1, 2], [4]), steps=3).run(**QUEUE)
    assert times.seconds == 3 * (1 + 4 + 2)


def test_a_whole_model_on_the_client_never_meets_the_server() -> None:
    times = case_of(([3], []), ([4], []), steps=2).run(**QUEUE)
    assert (times.seconds, times.server_seconds, times.waited_for) == (8, 0, "c1")


def test_a_round_without_clients_takes_no_time() -> None:
    assert simulate_round([], {}, SERVER, Case((), {}, {}).timing) == RoundTimes(0.0, None, 0, {}, {})


def test_messages_that_do_not_match_the_step_are_refused() -> None:
    case = case_of(([1, 1], [1]))
    (trace,) = case.traces
    torn = replace(trace, steps=(replace(trace.steps[0], down_bytes=()),))
    with pytest.raises(ValueError, match="c0: 1 messages up, 0 down"):
        replace(case, traces=(torn,)).run(**QUEUE)


def test_a_cohort_of_two_thousand_adds_up() -> None:
    case = case_of(*[([1 + n % 3, 1.0], [0.125]) for n in range(2000)], steps=5)
    times = case.run(**QUEUE, pairs=False)
    assert times.seconds >= 2000 * 5 * 0.125
    assert math.isclose(times.server_seconds, 1250)
    assert times.queued_behind == {}

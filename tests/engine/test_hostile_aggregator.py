"""An aggregator that lies harms nobody in silence: the run ends with one line, or goes on.

The lies are those of `hostile_aggregator`, from round 2 on; the server has a checkpoint of round 1 by then.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from cases import rest_slow
from hostile_aggregator import (
    BLAMES,
    CONTROL,
    ENDS,
    ENDS_A_CLIENT,
    IGNORED,
    SHOWN,
    VICTIM,
    Lies,
    LyingListener,
)
from network_threads import QUIET, Settings, three_sites, together
from ports import free_port
from splitft import Job, run
from splitft.common.checkpoint import load_checkpoint
from splitft.engines.network.control import Hello, Refused, Welcome
from splitft.engines.network.transport import dialler
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.listener import Listener
from splitft.errors import AggregatorError, NetworkError
from splitft.running import aggregator
from splitft.running.aggregator import serve_averages

NAMES = ["anna", VICTIM, "cleo"]
TRUNKS: dict[str, Any] = {"per_client": {}, "shared": {"server_adapter": "shared"}}
Adapters = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("lies")
    return three_sites(folder, NAMES, eval_every=2, labels="server")


class Apart:
    """A run with an aggregator of its own. said: lines that the server prints."""

    def __init__(self, setting: Settings, folder: Path) -> None:
        self.folder, self.out = folder, io.StringIO()
        network = {"clients": NAMES, "min_clients": 2, "rejoin_seconds": 5}
        self.setting = setting | {"network": network | {"aggregator": f"127.0.0.1:{free_port()}"}}

    def run(self, stop: bool = False, **options: Any) -> Path:
        """stop: The server has hung up, and cannot tell the aggregator the end."""
        address = self.setting["network"]["aggregator"]
        job = Job(**self.setting, output_dir=str(self.folder / "unused"))
        with ThreadPoolExecutor(1) as pool:
            kept, quiet = self.folder / "aggregator", QUIET
            ended = pool.submit(serve_averages, job, address, folder=kept, console=quiet)
            try:
                console = Console(file=self.out, width=10_000)
                return together(self.setting, self.folder, console=console, **options)
            finally:
                if stop:
                    LyingListener.last.stop()
                try:
                    ended.result(30)
                except NetworkError as error:
                    assert "not come to its end" in str(error)

    @property
    def said(self) -> list[str]:
        return self.out.getvalue().splitlines()


@pytest.fixture
def apart(setting: Settings, tmp_path: Path) -> Apart:
    return Apart(setting, tmp_path)


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> Callable[[Lies], None]:
    return lambda lies: monkeypatch.setattr(aggregator, "Listener", partial(LyingListener, lies))


@pytest.fixture(scope="module")
def honest(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Adapters]:
    """Return the adapter of the run in one process, after round 1, or with the victim in round 1 alone."""
    made: dict[str, Adapters] = {}

    def adapter(**changes: Any) -> Adapters:
        if repr(changes) not in made:
            folder = tmp_path_factory.mktemp("honest") / "run"
            run(Job(**setting | changes, output_dir=str(folder)), console=QUIET)
            made[repr(changes)] = load_file(folder / "adapter" / "adapter_model.safetensors")
        return made[repr(changes)]

    return adapter


def same(folder: Path, wanted: Adapters) -> bool:
    got = load_file(folder / "adapter" / "adapter_model.safetensors")
    return got.keys() == wanted.keys() and all(torch.equal(got[name], t) for name, t in wanted.items())


@pytest.mark.parametrize("lie", rest_slow(ENDS, ["further than steps reach"]))
def test_the_run_ends_with_one_line_and_its_last_checkpoint(
    lie: str, apart: Apart, lying: Callable[[Lies], None]
) -> None:
    lying(ENDS[lie].lies)
    with pytest.raises(AggregatorError) as told:
        apart.run(stop="breaks the protocol" in ENDS[lie].line)
    line = str(told.value)
    assert re.search(ENDS[lie].line, line), line
    assert line.isprintable() and len(line) < 700
    assert told.value.exit_code == NetworkError.exit_code
    found = load_checkpoint(apart.folder / "run" / "checkpoints")
    assert found is not None and found.round == 1
    assert not (apart.folder / "run" / "faults.log").exists()


@pytest.mark.slow
def test_an_honest_aggregator_goes_on_from_that_checkpoint(
    apart: Apart,
    lying: Callable[[Lies], None],
    honest: Callable[..., Adapters],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lying(ENDS["further than steps reach"].lies)
    with pytest.raises(AggregatorError, match="further"):
        apart.run()
    monkeypatch.undo()
    assert same(apart.run(resume=True), honest())


@pytest.mark.slow
@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("lie", BLAMES)
def test_a_client_that_it_blames_is_out_on_its_word_and_the_others_go_on(
    lie: str, trunk: str, setting: Settings, tmp_path: Path, lying: Callable[[Lies], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Bit by bit the run in which this client is expelled as round 2 begins."""
    setting = setting | TRUNKS[trunk]
    lying(BLAMES[lie].lies)
    one = Apart(setting, tmp_path / "lie")
    folder = one.run()
    expelled = [line for line in one.said if "is expelled" in line]
    assert len(expelled) == 1 and f"{VICTIM} is expelled: " in expelled[0]
    assert re.search(BLAMES[lie].line, expelled[0]) and "aggregator" in expelled[0]
    assert expelled[0].isprintable()
    if "says" in expelled[0]:
        assert SHOWN.split()[-1] in expelled[0]
    assert len([line for line in one.said if VICTIM in line]) < 9, "its changing reasons fill no log"
    monkeypatch.undo()
    without = Apart(setting, tmp_path / "without")
    wanted = without.run(tamper={VICTIM: gone_in_round_2}, callbacks=())
    assert same(folder, load_file(wanted / "adapter" / "adapter_model.safetensors"))


def gone_in_round_2(message: Any) -> list[Any]:
    """A client that is expelled as it starts with round 2."""
    starts = type(message).__name__ == "Started" and (message.round, message.attempt) == (2, 1)
    return [b"\xff" * 9] if starts else [message]


@pytest.mark.slow
@pytest.mark.parametrize("lie", ENDS_A_CLIENT)
def test_a_client_that_it_refuses_says_so(lie: str, apart: Apart, lying: Callable[[Lies], None]) -> None:
    lying(ENDS_A_CLIENT[lie].lies)
    told: list[str] = []
    apart.run(tamper={VICTIM: lambda message: [message]}, said=told)
    assert re.search(ENDS_A_CLIENT[lie].line, told[0]) and told[0].isprintable()
    wanted = f"{VICTIM} is not ready, and waited for: it says: the aggregator does not let it go on"
    assert [line for line in apart.said if wanted in line]
    assert not [line for line in apart.said if "expelled" in line]


class Fickle(Admission):
    """Refuses everybody for now, each time for another reason."""

    times = 0

    def admit(self, hello: Hello, certified: str, address: str) -> Refused:
        self.times += 1
        return Refused(f"{CONTROL} {self.times}", again=True)


def test_reasons_that_change_with_every_dial_fill_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialler, "FIRST_WAIT", 0.01)
    door, said = Fickle(("anna",), {}, False, AuditLog(tmp_path, lambda line: None)), list[str]()
    listener = Listener("127.0.0.1:0", None, door, Welcome(), 1 << 20)
    dials = dialler.Dialler(f"127.0.0.1:{listener.port}", None, "anna", "", 1 << 20, said.append)
    until = time.monotonic() + 60
    while door.times < 3 * dialler.MOST_LINES and time.monotonic() < until:
        time.sleep(0.05)
    dials.close(0)
    listener.close(0)
    assert door.times >= 3 * dialler.MOST_LINES
    assert len(said) <= dialler.MOST_LINES + 1  # one more where this took a minute
    assert all(line.isprintable() for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("lie", IGNORED)
def test_what_nobody_asked_for_changes_nothing(
    lie: str, apart: Apart, lying: Callable[[Lies], None], honest: Callable[..., Adapters]
) -> None:
    lying(IGNORED[lie])
    assert same(apart.run(), honest())
    assert not [line for line in apart.said if "expelled" in line]

"""Who takes part in a run over a network: not ready, expelled, missing, admitted; over loopback."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cases import rest_slow
from forks import start_command
from history_checker import effective_rounds, read_steps
from network_threads import follow, together
from ports import free_port
from reference import make_setting, write_rows
from run_files import adapter_of
from splitft import Job
from splitft.engines.network.membership import MEMBERS, expelled_before
from splitft.errors import DataError, JobError, NetworkError, OutputError
from splitft.job import dump_job
from splitft.running.serve import serve
from splitft.wire.messages import Activations, AdapterUp

NAMES = ("north", "south", "west")
Settings = dict[str, Any]


@pytest.fixture
def setting(tmp_path: Path) -> Settings:
    data = {name: str(write_rows(tmp_path / f"{name}.txt", rows=24, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(tmp_path, "llama", num_hidden_layers=3) | {
        "data_files": data, "labels": "server", "rounds": 2, "local_steps": 1, "cuts": 1, "warmup_steps": 0,
        "max_eval_samples": None, "eval_every": 1, "partition": {"method": "files"},
    }  # fmt: skip


def standings(run: Path) -> dict[str, str]:
    return {name: member["standing"] for name, member in json.loads((run / MEMBERS).read_text()).items()}


def bad_update(message: Any) -> list[Any]:
    """In the place of the adapters: bytes that are no message."""
    return [b"\x07 nonsense"] if isinstance(message, AdapterUp) else [message]


def serve_with(
    setting: Settings, folder: Path, take_part: Callable[[str, str], None], **options: Any
) -> tuple[Any, str]:
    """Serve a job; call a function for each client, with its name and the server's address, in a thread."""
    said, listening, address = Console(file=io.StringIO(), width=400), threading.Event(), [""]

    def on_listening(listener: Any) -> None:
        address[0] = f"127.0.0.1:{listener.port}"
        listening.set()

    def come(name: str) -> None:
        assert listening.wait(60)
        take_part(name, address[0])

    with ThreadPoolExecutor(len(NAMES)) as pool:
        coming = [pool.submit(come, name) for name in NAMES]
        job = Job(**setting, output_dir=str(folder / "run"))
        try:
            result = serve(job, "127.0.0.1:0", on_listening=on_listening, console=said, **options)
        finally:
            listening.set()
            for one in coming:
                one.exception(60)
    return result, said.file.getvalue()  # type: ignore[attr-defined]


def test_a_site_that_mends_its_file_takes_part_as_if_nothing_had_been(
    setting: Settings, tmp_path: Path
) -> None:
    usual = adapter_of(together(setting, tmp_path / "usual"))
    file, mended = Path(setting["data_files"]["south"]), threading.Event()
    text = file.read_text()
    file.write_text("")

    def take_part(name: str, address: str) -> None:
        if name == "south":
            with pytest.raises(DataError):
                follow(name, file, address, tmp_path / name)
            file.write_text(text)
            mended.set()
        follow(name, Path(setting["data_files"][name]), address, tmp_path / name)

    result, said = serve_with(setting, tmp_path, take_part)
    assert mended.is_set() and adapter_of(result.output_dir) == usual
    assert "south is not ready, and waited for: it says: its data cannot be used" in said
    assert "expelled" not in said and result.summary["missing"] == {}
    assert set(standings(result.output_dir).values()) == {"training"}


def test_a_stated_quorum_holds_against_expulsions(setting: Settings, tmp_path: Path) -> None:
    usual = adapter_of(together(setting, tmp_path / "usual"))
    setting["network"] = {"min_clients": 3}

    def take_part(name: str, address: str) -> None:
        tamper = bad_update if name == "west" and not again.is_set() else None
        follow(name, Path(setting["data_files"][name]), address, tmp_path / name, tamper)

    again = threading.Event()
    with pytest.raises(
        NetworkError, match=r"2 of 3 clients are left, network.min_clients is 3 \(west is exp"
    ):
        serve_with(setting, tmp_path, take_part)
    assert standings(tmp_path / "run")["west"] == "expelled"
    again.set()
    with pytest.raises(NetworkError, match="2 of 3 clients are left"):  # a restart forgets no expulsion
        serve_with(setting, tmp_path, lambda name, address: None, resume=True)
    result, _ = serve_with(setting, tmp_path, take_part, resume=True, admit=["west"])
    assert adapter_of(result.output_dir) == usual
    assert result.summary["missing"] == {}


@pytest.mark.parametrize("adapter", rest_slow(["shared", "per_client"], 1))
def test_a_round_with_too_few_begins_anew_with_those_that_are_there(
    adapter: str, setting: Settings, tmp_path: Path
) -> None:
    """West comes too late for the first round, of which south is then lost for good."""
    setting |= {"network": {"min_clients": 2, "rejoin_seconds": 1.5}, "server_adapter": adapter}
    lost, come = threading.Event(), {"north": None, "west": None}

    def die(message: Any) -> list[Any]:
        if isinstance(message, Activations) and message.train:
            lost.set()
            raise ConnectionAbortedError("lost")
        return [message]

    def take_part(name: str, address: str) -> None:
        if name not in come:
            return
        if name == "west" and "south" in come:
            assert lost.wait(60)
        follow(name, Path(setting["data_files"][name]), address, tmp_path / name, come[name])

    wanted, _ = serve_with(setting, tmp_path / "two", take_part)
    come["south"] = die  # type: ignore[assignment]
    result, said = serve_with(setting, tmp_path / "three", take_part)
    rounds = effective_rounds(read_steps(result.output_dir))
    assert [sorted(one["rows"]) for one in rounds] == [["north", "west"]] * 2
    assert "too few clients of round 1 are left without south: it begins anew, with those that are" in said
    assert result.summary["missing"] == {"south": "dropped: it was away or late"}
    assert adapter_of(result.output_dir) == adapter_of(wanted.output_dir)


def test_a_run_that_ends_with_fewer_than_invited_says_so(setting: Settings, tmp_path: Path) -> None:
    def take_part(name: str, address: str) -> None:
        tamper = bad_update if name == "west" else None
        follow(name, Path(setting["data_files"][name]), address, tmp_path / name, tamper)

    result, said = serve_with(setting, tmp_path, take_part)
    (name, reason), *others = result.summary["missing"].items()
    assert (name, others) == ("west", []) and reason.startswith("expelled: ")
    assert json.loads((result.output_dir / "summary.json").read_text())["missing"] == {"west": reason}
    assert f"The run is complete with 2 of 3 clients. Missing: west ({reason})" in said


def test_the_command_ends_with_a_code_of_its_own(setting: Settings, tmp_path: Path) -> None:
    setting["network"] = {"min_clients": 2, "rejoin_seconds": 2.0}
    port = free_port()
    dump_job(Job(**setting, output_dir=str(tmp_path / "run")), tmp_path / "job.yaml")
    server = start_command(
        ["server", tmp_path / "job.yaml", "--listen", f"127.0.0.1:{port}"], tmp_path / "log"
    )
    with ThreadPoolExecutor(2) as pool:
        for name in NAMES[:2]:
            own = Path(setting["data_files"][name])
            pool.submit(follow, name, own, f"127.0.0.1:{port}", tmp_path / name)
        server.join(90)
    said = (tmp_path / "log").read_text()
    assert server.exitcode == 9, said
    assert "The run is complete with 2 of 3 clients. Missing: west (it never came)" in " ".join(said.split())


@pytest.mark.parametrize(
    "text", ['{"north": ', "[1]", '{"north": {"standing": "expelled"}}', '{"north": 1}', "3"]
)
def test_a_damaged_list_of_members_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / MEMBERS).write_text(text)
    with pytest.raises(OutputError, match=r"members.json cannot be read .* expelled clients may come again"):
        expelled_before(tmp_path, NAMES, ())
    with pytest.raises(JobError, match=r"--admit est: no client .* there are north, south, west"):
        expelled_before(tmp_path, NAMES, ["est"])


def test_who_is_waited_for_may_be_changed_when_a_run_goes_on(setting: Settings, tmp_path: Path) -> None:
    setting["lr_scheduler_type"] = "constant"
    usual = adapter_of(together(setting, tmp_path / "usual"))
    together(setting | {"rounds": 1}, tmp_path)
    changed = {"network": {"min_clients": 1, "rejoin_seconds": 5.0, "round_seconds": 60.0}}
    assert adapter_of(together(setting | changed, tmp_path, resume=True)) == usual
    others = {"network": {"clients": ["north", "south", "east"]}}
    with pytest.raises(JobError, match=r"network\.clients: None, now .*`splitft server"):
        serve(Job(**setting | others, output_dir=str(tmp_path / "run")), "127.0.0.1:0", resume=True)

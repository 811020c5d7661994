"""The file of registered clients, and files for their connections."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitft import Job
from splitft.errors import JobError, NetworkError
from splitft.running.network import check_room, client_names
from splitft.running.registered import KEPT, check_clients, read_clients

MODEL = {"model_name_or_path": "builtin:smollm2-135m"}
NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,20}\Z")


@given(st.lists(NAMES, min_size=1, max_size=50, unique=True), st.booleans())
def test_names_come_in_the_order_of_the_file(names: list[str], spaced: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clients.txt"
        between = "\n\n# a remark\n  " if spaced else "\n"
        path.write_text(between.join(names))
        assert read_clients(path) == names
        assert client_names(Job(**MODEL, network={"clients_file": str(path)})) == names


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has 0 names"),
        ("a\nB\n", "line 2: 'B' is no name of a client"),
        ("a\n../b\n", "line 2: '../b' is no name"),
        ("a\n\nb\na\n", "line 4: a stands in line 1 already"),
        ("a\x1b[31m\n", r"line 1: 'a.*' is no name"),
        ("x" * 65, "line 1: 'x+' is no name"),
    ],
)
def test_a_file_that_is_no_list_of_names_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "clients.txt"
    path.write_text(text)
    with pytest.raises(JobError, match=problem):
        read_clients(path)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read: No such file"):
        read_clients(tmp_path / "nothing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobError, match="is not UTF-8"):
        read_clients(tmp_path / "binary")


def test_names_may_be_added_at_the_end_of_a_run_s_list(tmp_path: Path) -> None:
    check_clients(tmp_path, ["a", "b"], 2, 1)
    check_clients(tmp_path, ["a", "b", "c"], 3, None)
    assert (tmp_path / KEPT).stat().st_mode & 0o077 == 0
    for changed in (["b", "a", "c"], ["a", "b"], ["a", "x", "c"]):
        with pytest.raises(JobError, match="names may be added at the end only"):
            check_clients(tmp_path, changed, None, None)
    with pytest.raises(JobError, match=r"clients_per_round: 4 is more than network\.clients_file has \(3\)"):
        check_clients(tmp_path, ["a", "b", "c"], 4, None)


def test_files_are_checked_against_the_clients_that_must_be_there_at_a_time() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    registered = {"clients_file": "clients.txt"}
    connected = Job(**MODEL, network=registered | {"sampling": "connected"}, clients_per_round=5)
    if hard > 1 << 22:
        pytest.skip("no limit of open files here")
    try:
        check_room(connected, 10 * hard, 3)
        with pytest.raises(NetworkError, match=r"files of this process are enough for .* waits for .*ulimit"):
            check_room(Job(**MODEL, network=registered), 10 * hard, 3)
        check_room(Job(**MODEL, network=registered | {"min_clients": 5}), 10 * hard, 3)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

"""Checkpoints: what is read is what was written, or an older one that is whole, or a clear word."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import run_process
from splitft.common.checkpoint import (
    MANIFEST,
    STATE,
    TENSORS,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from splitft.common.state import pack, unpack
from splitft.errors import OutputError

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def a_state(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "cuts": {"client-0": 2, "client-1": 5},
        "server": {0: {"q.lora_A.weight": torch.randn(4, 6, generator=generator)}, 7: {}},
        "steps": [1, 2.5, None, True, "text", float("inf")],
        "views": torch.arange(12).reshape(3, 4).T,
    }


def same(one: Any, other: Any) -> bool:
    (values, tensors), (others, more) = pack(one), pack(other)
    return (
        values == others
        and tensors.keys() == more.keys()
        and all(t.dtype == more[n].dtype and torch.equal(t, more[n]) for n, t in tensors.items())
    )


tensors = st.builds(
    lambda shape, dtype: torch.arange(int(torch.tensor(shape).prod())).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | tensors
)
states = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab", max_size=2) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(states)
def test_a_state_comes_back_through_json_as_it_was(state: Any) -> None:
    try:
        values, named = pack(state)
    except ValueError as error:  # keys 1 and "1", or "a/b", may give two tensors one name
        assert "two tensors are called" in str(error)
        return
    assert same(unpack(json.loads(json.dumps(values)), named), state)


@pytest.mark.parametrize(
    "value", [object(), {"a": {1, 2}}, [b"raw"], len], ids=["object", "set", "bytes", "code"]
)
def test_what_is_no_state_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot hold"):
        pack(value)


@pytest.mark.parametrize(
    "values", [{"map": [[1, 2]], "x": 1}, {"tensor": "t"}, {"code": "os.system"}, {}], ids=repr
)
def test_what_pack_cannot_have_made_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="not a state"):
        unpack(values, {})


def test_the_newest_is_read_and_old_ones_go(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for round_ in range(5):
        save_checkpoint(tmp_path, round_, a_state(round_), keep=2)
    found = load_checkpoint(tmp_path)
    assert found is not None and found.round == 4 and not found.passed_over
    assert same(found.state, a_state(4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000003", "round-000004"]
    remove_checkpoints(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.parametrize("file", [STATE, TENSORS, MANIFEST])
@pytest.mark.parametrize("how", ["flipped", "torn", "grown"])
def test_damage_anywhere_is_noticed(how: str, file: str, tmp_path: Path) -> None:
    """At 25 places in each file, one bit or the rest of the file: 225 damages, never a part of a state."""
    for round_ in (1, 2):
        save_checkpoint(tmp_path / "good", round_, a_state(round_), keep=2)
    draw = random.Random(f"{how} {file}")
    content = (tmp_path / "good" / "round-000002" / file).read_bytes()
    for number in range(25):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "good", folder)
        place = draw.randrange(len(content))
        damaged = {
            "flipped": content[:place]
            + bytes([content[place] ^ 1 << draw.randrange(8)])
            + content[place + 1 :],
            "torn": content[:place],
            "grown": content[:place] + b"\0" + content[place:],
        }[how]
        (folder / "round-000002" / file).write_bytes(damaged)
        found = load_checkpoint(folder)
        assert found is not None and found.round == 1, f"at byte {place}"
        assert same(found.state, a_state(1))
        assert len(found.passed_over) == 1 and "round-000002" in found.passed_over[0]


@pytest.mark.parametrize("file", [STATE, TENSORS, MANIFEST])
def test_a_missing_file_is_noticed(file: str, tmp_path: Path) -> None:
    for round_ in (1, 2):
        save_checkpoint(tmp_path, round_, a_state(round_), keep=2)
    (tmp_path / "round-000002" / file).unlink()
    found = load_checkpoint(tmp_path)
    assert found is not None and found.round == 1


def test_a_checkpoint_of_another_round_or_run_is_no_part_of_this_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, a_state(1), keep=3)
    (tmp_path / "round-000001").rename(tmp_path / "round-000009")
    save_checkpoint(tmp_path, 2, a_state(2), keep=3)
    for file in (STATE, TENSORS):  # whole files, but not those of this manifest
        shutil.copy(tmp_path / "round-000009" / file, tmp_path / "round-000002" / file)
    with pytest.raises(OutputError, match=r"no checkpoint in .* is whole .*round-000009.*round-000002"):
        load_checkpoint(tmp_path)


def test_what_a_crash_left_half_written_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".round-000003.part").mkdir(parents=True)
    (tmp_path / ".round-000003.part" / STATE).write_text("{")
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 3, a_state(), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["round-000003"]


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from splitft.common.checkpoint import save_checkpoint
from splitft.errors import OutputError
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
for size in range(100_000, 400_000, 3_000):
    try:
        save_checkpoint(folder, size, {"t": torch.zeros(size)}, keep=2)
    except OutputError as error:
        print(error)
"""


def test_a_full_disk_is_told_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the end of the disk: from some size on every write fails."""
    done = run_process([sys.executable, "-c", FULL_DISK, tmp_path], timeout=120)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) > 40
    assert all(
        "cannot be written" in line and "start this again (a run or a server with --resume)" in line
        for line in told
    )
    found = load_checkpoint(tmp_path)
    assert found is not None and not found.passed_over
    assert len(found.state["t"]) == found.round < 250_000
    assert len(list(tmp_path.iterdir())) == 2

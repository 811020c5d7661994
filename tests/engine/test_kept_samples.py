"""What a server writes down of samples, with `codec: delta`: nothing that opens without the clients' keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from network_threads import QUIET, Settings, three_sites, together
from splitft import Job, run
from splitft.common.checkpoint import load_checkpoint
from splitft.engines.network.site_files import KEY
from splitft.wire.memory.sealed import opened
from splitft.wire.messages import Activations

NAMES = ("north", "south")


@pytest.fixture
def setting(tmp_path: Path) -> Settings:
    own: dict[str, Any] = {"codec": "delta", "cuts": [1, 2], "labels": "client", "tail_blocks": 1}
    return three_sites(tmp_path, NAMES, **own)


def kept_by(client: Path) -> dict[int, list[Any]]:
    """Return what a client has saved of its samples, which its server had in memory, too."""
    found = load_checkpoint(client / "saved")
    assert found is not None
    kept: dict[int, list[Any]] = found.state["memory"]["kept"]
    return kept


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_server_keeps_of_samples_does_not_open_from_its_disk(
    setting: Settings, tmp_path: Path
) -> None:
    folder = together(setting, tmp_path)
    server = files_below(folder)
    found = load_checkpoint(folder / "checkpoints")
    assert found is not None and any("checkpoints" in str(path) for path in server)
    for name in NAMES:
        # The rows themselves, in the form in which both sides keep them, are at the client alone.
        kept, own = kept_by(tmp_path / name), b"".join(files_below(tmp_path / name).values())
        assert len(kept) > 5
        for values, _ in kept.values():
            row = values[0].numpy().tobytes()
            assert row in own
            assert not [path for path, content in server.items() if row in content]
        # They are what the client's key opens, and this key is nowhere at the server.
        key, pieces = (tmp_path / name / KEY).read_text(), found.state["cohort"]["memories"][name]
        assert set(opened(pieces, key, name)["kept"]) == set(kept)
        assert not [
            path
            for path, content in server.items()
            if key.encode() in content or bytes.fromhex(key) in content
        ]


@pytest.mark.parametrize("lost", [False, True], ids=["key kept", "key lost"])
def test_a_resumed_run_has_the_same_bits_where_the_key_is_there(
    lost: bool, setting: Settings, tmp_path: Path
) -> None:
    """Without it the run goes on, and that client's samples are sent whole again, so rounded otherwise."""
    setting |= {"lr_scheduler_type": "constant", "local_steps": 12}  # all rows come in the first round
    together(setting | {"rounds": 1}, tmp_path)
    if lost:
        (tmp_path / "north" / KEY).unlink()
    folder = together(setting, tmp_path, resume=True)
    run(Job(**setting, output_dir=str(tmp_path / "local")), console=QUIET)
    adapters = [
        (one / "adapter" / "adapter_model.safetensors").read_bytes() for one in (folder, tmp_path / "local")
    ]
    assert (adapters[0] == adapters[1]) is not lost


def test_nothing_of_a_row_is_stored_by_a_server_that_says_so(tmp_path: Path) -> None:
    """`privacy: not_stored`: neither activations nor labels, which cross the wire and are found there."""
    setting = three_sites(
        tmp_path,
        NAMES,
        privacy="not_stored",
        labels="server",
        train_front=False,
        adapter_name_or_path=None,
        cuts=1,
        server_evaluates=False,
    )
    sent: list[Activations] = []

    def note(message: Any) -> list[Any]:
        sent.extend([message] if isinstance(message, Activations) else [])
        return [message]

    folder = together(setting, tmp_path, tamper=dict.fromkeys(NAMES, note))
    rows = [row.numpy().tobytes() for message in sent for row in message.hidden[:3]]
    ids = [message.labels[:8].numpy().tobytes() for message in sent if message.labels is not None]
    assert len(rows) > 20 and len(ids) > 5 and all(len(row) >= 32 for row in (*rows, *ids))
    server = files_below(folder)
    assert any("checkpoints" in str(path) for path in server)
    for content in server.values():
        assert not [row for row in (*rows, *ids) if row in content]
    written = tmp_path / "found"
    written.write_bytes(b"..." + rows[0] + ids[0])  # the search finds what it looks for
    assert rows[0] in written.read_bytes() and ids[0] in written.read_bytes()

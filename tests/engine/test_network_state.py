"""What a client keeps between two processes of a run, and between two runs."""

from __future__ import annotations

from pathlib import Path

from network_threads import together
from reference import make_setting, write_rows
from splitft.common.checkpoint import load_checkpoint
from splitft.engines.network.site_files import SAVED


def test_a_new_run_does_not_find_the_state_of_an_earlier_one(tmp_path: Path) -> None:
    setting = make_setting(tmp_path, "llama", num_hidden_layers=3) | {
        "data_files": {"anna": str(write_rows(tmp_path / "anna.txt", rows=24))}, "local_steps": 1,
        "labels": "server", "partition": {"method": "files"}, "network": {"clients": ["anna"]},
        "max_eval_samples": None, "warmup_steps": 0, "save_every": 1,
    }  # fmt: skip
    kept = []
    for number, rounds in enumerate((5, 2)):
        together(setting | {"rounds": rounds}, tmp_path)
        (tmp_path / "run").rename(tmp_path / f"run-{number}")
        kept.append(load_checkpoint(tmp_path / "anna" / SAVED))
    earlier, later = kept
    assert earlier is not None and later is not None
    assert later.round < earlier.round

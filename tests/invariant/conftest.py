"""What several tests of invariants share."""

from __future__ import annotations

from typing import Any

import pytest
from runs import Settings
from wire_record import Wire, record_messages

from reference import make_setting
from splitft.running.parties import Parties, make_parties


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Parties]:
    """The parties of runs, so that a test may look at what no file shows: optimizer state."""
    seen: list[Parties] = []

    def keep(*args: Any, **kwargs: Any) -> Parties:
        seen.append(make_parties(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr("splitft.running.runner.make_parties", keep)
    return seen


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_setting(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_setting(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> type[Wire]:
    return record_messages(monkeypatch)


@pytest.fixture(scope="module")
def settings_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Settings of a job of 4 clients for a type of model of 6 blocks; each model is made once."""
    made: dict[str, Settings] = {}

    def settings(model_type: str) -> Settings:
        if model_type not in made:
            folder = tmp_path_factory.mktemp(model_type)
            made[model_type] = make_setting(folder, model_type, num_hidden_layers=6) | {
                "clients": 4, "rounds": 4, "local_steps": 2, "cuts": 2, "max_eval_samples": 10,
                "eval_every": 1,
                "partition": {"method": "length_dirichlet", "alpha": 0.5, "min_rows": 4},
            }  # fmt: skip
        return made[model_type]

    return settings

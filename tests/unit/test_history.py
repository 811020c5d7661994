"""The record of a round."""

from __future__ import annotations

from splitft.history import RoundRecord, make_record
from splitft.wire.ledger import Ledger
from splitft.wire.messages import Metrics

CUTS = {"a": 1, "b": 1, "c": 1}


def record(names: str) -> RoundRecord:
    figures = {"a": 0.1, "b": 0.2, "c": 0.3}
    return make_record(
        1,
        list(CUTS),
        CUTS,
        losses={name: (figures[name], 1) for name in names},
        metrics={name: Metrics(1, figures[name], figures[name], 1, figures[name], 1) for name in names},
        ledger=Ledger(),
        seconds=(0.0, 0.0),
        times=None,
        truncation_errors={},
    )


def test_figures_do_not_depend_on_the_order_in_which_clients_came() -> None:
    assert (0.1 + 0.2) + 0.3 != (0.3 + 0.2) + 0.1
    assert record("cba") == record("abc")

"""The plane of one party: the doors at which it answers for health and metrics, and what feeds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from splitft.common.draining import draining_has_begun
from splitft.common.notices import Notice
from splitft.errors import JobError
from splitft.job.settings import FederationSettings

if TYPE_CHECKING:
    from splitft.engines.network.aggregator_process import AggregatorProcess
    from splitft.engines.network.conversation import Conversation
    from splitft.engines.network.orders import Orders
    from splitft.engines.network.site_observer import SiteObserver
    from splitft.engines.network.transport.admission import AuditLog
    from splitft.running.callbacks import Callback
    from splitft.running.plane.page import MetricsPage
    from splitft.running.site_lines import SiteLines
    from splitft.wire.ledger import Ledger

LOOPBACK = "127.0.0.1"


@dataclass(eq=False)
class Plane:
    """Where a party answers for its state; without a door every method does nothing.

    party: server, client or aggregator. health, metrics: HOST:PORT, or the port alone on this machine; None:
    no door. certs: folder of the party's certificates. show: prints a line.
    """

    party: str = ""
    health: str | None = None
    metrics: str | None = None
    certs: Path | None = None
    show: Callable[[str], None] = lambda text: None
    _page: MetricsPage | None = field(default=None, init=False)
    _taking: bool = field(default=False, init=False)
    _events: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)
    _doors: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> Plane:
        """Open the doors. Raises JobError for what is no address, NetworkError where it cannot be had."""
        with ExitStack() as doors:
            if self.health is not None:
                self._open_health(self.health, doors)
            if self.metrics is not None:
                self._open_metrics(self.metrics, doors)
            self._doors = doors.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Close them."""
        self._doors.close()

    @property
    def serving(self) -> bool:
        """Whether clients are taken now: not before the party listens, nor while it drains."""
        return self._taking and not draining_has_begun()

    def takes_clients(self) -> None:
        """Note that the party listens."""
        self._taking = True

    def counting(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """Return what prints notices, and counts them where there are metrics."""
        if self._page is None:
            return say
        events = self._events

        def count(text: str) -> None:
            told = Notice.of(text)
            events[told.event, told.level] += 1
            say(text)

        return count

    def of_server(
        self, job: FederationSettings, ledger: Ledger, orders: Orders, audit: AuditLog
    ) -> list[Callback]:
        """Have the metrics tell of a server's run; return what the run calls at its events."""
        if self._page is None:
            return []
        from splitft.running.plane.server_metrics import ServerMetrics

        made = ServerMetrics(job, ledger, orders, audit)
        self._page.add(made.tell)
        return [made]

    def of_client(self, lines: SiteLines, conversation: Conversation) -> SiteObserver:
        """Have the metrics tell of a client's part; return what receives its events. lines: gets them too."""
        if self._page is None:
            return lines
        from splitft.running.plane.client_metrics import ClientMetrics

        made = ClientMetrics(lines, conversation)
        self._page.add(made.tell)
        return made

    def of_aggregator(self, process: AggregatorProcess, audit: AuditLog) -> None:
        """Have the metrics tell of an aggregator."""
        if self._page is not None:
            from splitft.running.plane.aggregator_metrics import AggregatorMetrics

            self._page.add(AggregatorMetrics(process, audit).tell)

    def _open_health(self, address: str, doors: ExitStack) -> None:
        from splitft.engines.network.transport.health import HealthDoor

        door = HealthDoor(own_address("--health", address), lambda: self.serving)
        doors.callback(door.close)
        self.show(Notice(f"health at port {door.port}", "health", port=door.port))

    def _open_metrics(self, address: str, doors: ExitStack) -> None:
        try:
            from splitft.running.plane.page import MetricsPage
            from splitft.running.plane.party_metrics import PartyMetrics
        except ImportError:
            raise JobError("--metrics: the library is not there: pip install 'splitft[metrics]'") from None
        page = MetricsPage(own_address("--metrics", address))
        doors.callback(page.close)
        page.add(PartyMetrics(self.party, self.certs, self._events).tell)
        self._page = page
        text = f"metrics at port {page.port}, path /metrics"
        if page.is_open:
            text += ": whoever reaches it reads names of clients and figures of the run"
        self.show(Notice(text, "metrics", "warning" if page.is_open else "info", port=page.port))


def own_address(option: str, text: str) -> str:
    """Return HOST:PORT of an option's value; a port alone is one of this machine. Raises JobError."""
    host, colon, port = text.rpartition(":")
    right = port.isascii() and port.isdigit() and int(port) <= 65535 and "/" not in host
    if not right or (colon and not host):
        raise JobError(
            f"{option} {text}: write a port for this machine alone, or HOST:PORT, such as 0.0.0.0:9464 for "
            "all that reach it"
        )
    return text if colon else f"{LOOPBACK}:{port}"

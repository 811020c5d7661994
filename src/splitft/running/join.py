"""`splitft client`: one client, with its own data, of a run whose server is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from splitft.common.lock import lock_folder
from splitft.common.notebook import make_console
from splitft.common.notices import Notice
from splitft.engines.network.aggregator_link import dial_aggregator
from splitft.engines.network.conversation import Conversation
from splitft.engines.network.desk import Dial
from splitft.engines.network.site import Site
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.errors import NetworkError
from splitft.job.site_policy import load_policy
from splitft.running.agreement import Agreement
from splitft.running.client_setup import ClientSetup
from splitft.running.meters import OwnMeter
from splitft.running.network import notice
from splitft.running.plane.plane import Plane
from splitft.running.site_checks import (
    check_given,
)
from splitft.running.site_lines import SiteLines
from splitft.running.sums import sums_of

FIRST_PAYLOAD = 1 << 20  # bytes of a message before the job is known


def join(
    server: str,
    name: str,
    *,
    data: Path | None = None,
    eval_data: Path | None = None,
    model: str | None = None,
    job_data: bool = False,
    certs: Path | None = None,
    authority: bytes = b"",
    ca: Path | None = None,
    insecure: bool = False,
    token: str = "",
    patience: float = 0.0,
    policy: Path | None = None,
    accept: str = "",
    folder: Path,
    console: Console | None = None,
    plane: Plane | None = None,
    meter: OwnMeter | None = None,
) -> Site:
    """Take part in a run as one client, until the server ends it; return the client's state at the end.

    data: this client's own file.
    eval_data: beside it, the file that this client evaluates on; default: a share of `data` is held out.
    job_data: instead, take this client's share of the job's data set.
    model: the base model, where this machine has it under another name.
    certs: folder of this client's certificate.
    authority: instead, PEM of the authority that must have signed the server's certificate.
    ca: a file with that, in place of `ca.pem` in `certs`, too.
    token: the secret that the server asks for.
    patience: seconds without any server before LostError.
    policy: the file of this site's policy; default: `site.yaml` in `folder`, if there is one.
    accept: `first`: agree to the first job that comes; or the digest of the job that is agreed to. Empty: the
        owner is asked on a terminal. The job agreed to is kept in `folder`; once it changes, its owner is
        asked again.
    meter: reads, after rounds, how much of its own rows this client's activations tell; for its owner alone.
    plane: tells others of metrics.

    Raises PolicyError, NetworkError, DataError, ModelError, OutputError.
    """
    console, plane = console or make_console(), plane or Plane()
    say = plane.counting(partial(notice, console))
    check_given(data, eval_data, job_data=job_data)  # before the server is told that this client is there

    def dial(address: str) -> Dial:
        return dial_aggregator(address, name, certs, insecure, token, say)

    agreement = Agreement(folder, accept, console)
    own = load_policy(policy, folder)
    sums = partial(sums_of, name, certs, folder, own, say)
    setup = ClientSetup(name, data, eval_data, model, console, dial, own, agreement, server, sums, folder)
    credentials = channel_credentials(server, certs, insecure, authority, ca)
    dialler = Dialler(server, credentials, name, token, FIRST_PAYLOAD, say, patience)

    def reading(done: int, rounds: int) -> Sequence[str]:
        return meter.lines(site.client, done, rounds) if meter else ()

    conversation = Conversation(dialler)
    lines = SiteLines(say, reading)
    site = Site(conversation, folder, setup, plane.of_client(lines, conversation))
    try:
        with lock_folder(folder, "--folder"):
            end = site.run()
    finally:
        dialler.close()
    if not end.ok:
        raise NetworkError(f"the run has not come to its end: {end.reason}")
    console.print(Notice(end.reason, "end"), markup=False, highlight=False)
    return site

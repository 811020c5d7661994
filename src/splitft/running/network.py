"""What the commands of a run over a network share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from splitft.common.notices import Notice
from splitft.common.text import named
from splitft.engines.network.transport.certs import SERVER, check_no_authority
from splitft.engines.network.transport.credentials import RENEWED, is_loopback
from splitft.engines.network.transport.identity import read_server_files
from splitft.engines.network.transport.pem import certificates_in, check_dates
from splitft.engines.network.transport.room import make_room
from splitft.engines.network.transport.tokens import TokenFile
from splitft.errors import JobError, NetworkError
from splitft.job import Job
from splitft.job.report import ReportSettings
from splitft.running.registered import read_clients

METHODS = ("splitft", "same_split", "fed_lora")


def client_names(job: Job) -> list[str]:
    """Return the names of the clients that may take part, in the order of all sums.

    They are those of `network.clients` or its `clients_file`, else those that `data_files` gives to a client
    each. Raises JobError where the file cannot be used.
    """
    if job.network.clients_file is not None:
        return read_clients(job.network.clients_file)
    own = job.data_files if isinstance(job.data_files, dict) else ()
    return list(job.network.clients or own or (f"client-{i}" for i in range(job.clients)))


def job_digest(job: Job) -> str:
    """Return the SHA-256 of a job, on which server and aggregator must agree.

    job: with the keys that its method and a network fix, and nothing yet that a party settles for itself.
    """
    free: dict[str, Any] = dict.fromkeys(("output_dir", *ReportSettings.model_fields), True)
    free["network"] = {key for key in type(job.network).model_fields if key != "clients"}
    return hashlib.sha256(job.model_dump_json(exclude=free).encode()).hexdigest()


def check_network_job(job: Job) -> None:
    """Raise JobError where a job has no server, or leaves open what it says of the rows and the labels."""
    if job.method not in METHODS:
        runs = f"{job.method_name} runs {job.method}, which" if job.method_name else job.method
        raise JobError(f"method {runs} has no server: over a network there is {', '.join(METHODS)}")
    if job.splits_model and not job.network.probe:
        raise JobError(
            f"network.probe: false is for method fed_lora: with {job.method} the server runs the trunks, and "
            "holds the model; leave it out"
        )
    if job.dp.noise_seed is not None:
        raise JobError("dp.noise_seed: the server would know it, and could take the noise off: leave it out")
    if job.replay_cohorts is not None:
        raise JobError("replay_cohorts is for a run in one process: over a network clients come as they do")
    if job.num_train_epochs is not None:
        raise JobError("num_train_epochs counts rows, and these are the clients': set rounds or max_steps")
    if job.privacy is None:
        raise JobError(
            "over a network a job must state `privacy`: write `privacy: server_reads` if the server may read "
            "what it is sent, or `privacy: no_activations` with method fed_lora, which sends no activations "
            "(docs/choosing.md)"
        )
    if job.redact.active:
        raise JobError(
            "redact is each site's own, in its site.yaml (docs/redaction.md): leave it out over a network"
        )
    if job.splits_model and "labels" not in job.model_fields_set:
        raise JobError(
            "over a network a job must state `labels`: `labels: server` sends the text to the server, "
            "`labels: client` keeps labels, head and tail on the clients (docs/threat-model.md)"
        )


def needs_weights(job: Job) -> bool:
    """Whether a job's server holds the base model's weights.

    For its trunks, to probe averages, or since the first adapter is made from them.
    """
    return job.splits_model or job.network.probe or job.moves_base or job.use_dora


def check_address(address: str, certs: Path | None, insecure: bool, client_certs: bool = True) -> None:
    """Raise JobError where an address is none, or would be open to a network without TLS.

    client_certs: whether clients show certificates. Raises NetworkError where the folder of this party's
    certificates cannot be used, or holds the authority's key.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise JobError(f"--listen {address}: write HOST:PORT, such as 127.0.0.1:50051 or 0.0.0.0:50051")
    if certs is None and not insecure and not is_loopback(host):
        raise JobError(
            f"--listen {address} is open to a network, and there is no TLS: give --certs (made by "
            "`splitft certs init`), or type --insecure where something else keeps strangers out"
        )
    if certs is not None:
        check_no_authority(certs)
        read_server_files(certs, client_certs)
        check_dates(certs / SERVER, certificates_in(certs / SERVER)[0], RENEWED)


def check_room(job: Job, clients: int, each: int) -> None:
    """Raise the limit of open files to what clients need, as far as the system allows it.

    clients: of the job. each: files of a connection. Raises NetworkError where fewer fit than must be there
    at a time, so that the run could never go on.
    """
    network = job.network
    needed = network.min_clients or clients
    if network.samples_connected:
        needed = network.min_clients or job.clients_per_round or 1
    room = make_room(clients, each)
    if room.most is not None and room.most < needed:
        raise NetworkError(
            f"open files of this process are enough for {room.most} clients, and the run waits for {needed}: "
            f"{room.advice}"
        )


def check_tokens(
    job: Job, hashes: TokenFile, token: str, names: Sequence[str], say: Callable[[str], None]
) -> None:
    """Raise JobError where tokens of each client do not go with the rest; say which clients have none yet."""
    if token:
        raise JobError("--tokens or --token-file, not both: a client is known by its own token")
    if job.network.aggregator:
        raise JobError(
            "--tokens does not go with network.aggregator, which would get the tokens of all clients: give "
            "certificates to all parties (`splitft certs aggregator`)"
        )
    if lacking := hashes.without(names):
        say(f"no token counts for {named(lacking)} yet: `splitft certs token` makes one")


def notice(console: Console, text: str) -> None:
    """Print one line about the network."""
    shown = Notice.of(text).shown_as(f"[dim]network[/] {escape(text)}")
    console.print(shown, highlight=False, soft_wrap=True)  # one line of a log


def counts_at_clients(job: Job) -> bool:
    """Whether losses and accuracies are counted by clients: the server has no labels, or no activations."""
    return job.labels == "client" or not job.splits_model

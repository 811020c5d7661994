"""`splitft client`: one client, with its own data, of a run whose server is elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from splitft.client.client import Client, ClientRole
from splitft.common.lock import lock_folder
from splitft.common.notebook import make_console
from splitft.common.quiet import quiet_libraries
from splitft.data import ClientData, prepare
from splitft.data.table import check_file
from splitft.engines.network.aggregator_link import Desk, Dial, dial_aggregator
from splitft.engines.network.control import MAX_TEXT, Welcome
from splitft.engines.network.site import Conversation, Site
from splitft.engines.network.transport.certs import channel_credentials
from splitft.engines.network.transport.dialler import MAX_PAYLOAD, Dialler
from splitft.errors import DataError, JobError, NetworkError
from splitft.job import Job
from splitft.lora.ranks import held_blocks
from splitft.model.config import count_blocks
from splitft.model.head import HeadForm
from splitft.model.split_model import ServerInputs, SplitModel
from splitft.proof.head import try_head, whole_loss_notice
from splitft.running.baselines.whole import WholeClient
from splitft.running.headline import readable, two_columns
from splitft.running.model import base_config, inject_adapters, load_base, make_split_model
from splitft.running.names import check_client_names
from splitft.running.network import notice
from splitft.running.prepare import check_config, note
from splitft.weights.load import load_tokenizer
from splitft.wire.channel import Channel, sample_memory


@dataclass
class ClientSetup:
    """Makes a client from the server's welcome: the job, and the names of the modules with LoRA.

    dial: returns a function that dials an aggregator, given its address.
    """

    name: str
    data: Path | None
    eval_data: Path | None
    model: str | None
    console: Console
    dial: Callable[[str], Dial]
    _held: frozenset[int] = frozenset()
    _told: tuple[Job, Welcome] | None = None

    def make(self, welcome: Welcome) -> tuple[ClientRole, Channel]:
        """Read the data. Return the client, and its end of the connection.

        Raises:
            JobError, DataError, ModelError.
        """
        quiet_libraries()
        job = self._job(welcome.job)
        check_client_names(job)
        self._told = job, welcome
        self.console.print(two_columns({"server reads": readable(job)}))
        config = base_config(job)
        tokenizer = load_tokenizer(job.model_name_or_path, job.model_revision)
        with self.console.status("reading the data"):
            data = self._own_data(job, tokenizer)
        check_config(job, config, [data])
        model = self._part(job, welcome, frozenset({0}) if job.splits_model else None)
        pad = cast(int, tokenizer.pad_token_id)
        client: ClientRole
        if job.splits_model:
            client = Client(self.name, data, model, job, pad, sample_memory(job, model.width))
        else:
            client = WholeClient(self.name, data, model, job, pad)
        return client, Channel(job, model.width, client.memory)

    def need(self, client: ClientRole, cut: int) -> None:
        """Hold the blocks of a cut; those that are here already stay."""
        blocks = client.model.num_blocks
        wanted = frozenset(held_blocks(client.settings, blocks, cut).on_client(range(blocks)))
        if not wanted <= self._held:
            assert self._told is not None
            client.use_model(self._part(*self._told, self._held | wanted))

    def open_desk(self, on_end: Callable[[str], None]) -> Desk | None:
        """Dial the job's aggregator, if it has one. on_end: receives the reason where it refuses."""
        aggregator = self._told[0].network.aggregator if self._told else None
        return Desk(self.dial(aggregator), on_end) if aggregator else None

    def _part(self, job: Job, welcome: Welcome, blocks: frozenset[int] | None) -> SplitModel:
        """Return the model with these blocks alone; None: with all."""
        head = job.labels == "client" or blocks is None
        base = load_base(job, self.console, blocks=blocks, head=head)
        form: HeadForm = "whole"
        last = count_blocks(base.config) - 1  # a client may be without its tail until its first hand-out
        if head and job.loss_chunk_tokens and (blocks is None or last in blocks):
            form, reason = try_head(base, job.seed, whole=blocks is None)
            if reason:
                note(self.console, whole_loss_notice(reason))
        inputs = cast(ServerInputs, welcome.server_inputs)
        slots = inject_adapters(job, base, (welcome.targets, welcome.excluded))
        model = make_split_model(job, base, slots, inputs, form)
        self._held = frozenset(range(model.num_blocks)) if blocks is None else blocks
        return model

    def _job(self, text: str) -> Job:
        """Return the server's job as this client reads it: a job of one client where the data are its own."""
        try:
            job = Job.model_validate_json(text[:MAX_TEXT], strict=True)
        except ValueError as error:
            raise NetworkError(f"the server's job cannot be read: {str(error).splitlines()[0]}") from None
        # No rule is asked again: those of all clients together do not hold for one.
        changes: dict[str, Any] = {"model_name_or_path": self.model} if self.model else {}
        stated = set(job.model_fields_set)
        if self.data:
            own = {self.name: str(self.eval_data)} if self.eval_data else None
            if job.eval_files or job.dataset_test_split:
                self._say_not_read(own is not None)
            changes |= {"dataset_name": None, "data_files": {self.name: str(self.data)}, "clients": 1}
            changes |= {"eval_files": own, "dataset_test_split": None}
            changes["partition"] = job.partition.model_copy(update={"method": "files", "options": {}})
        elif job.partition.method in ("by_column", "files"):
            stated.discard("clients")  # network.clients implies it; the sites are found in the data
        job = job.model_copy(update=changes)
        return job.model_construct(stated | set(changes), **dict(job))

    def _say_not_read(self, evaluates: bool) -> None:
        instead = (
            "--eval-data takes its place"
            if evaluates
            else ("a share of the rows of --data is held out; --eval-data FILE names rows to evaluate on")
        )
        note(self.console, f"the job's evaluation set is not read by a client with --data: {instead}")

    def _own_data(self, job: Job, tokenizer: Any) -> ClientData:
        prepared = prepare(job, tokenizer)
        for text in prepared.notices:
            note(self.console, text)
        found = {client.name: client for client in prepared.clients}
        if self.name not in found:
            raise DataError(
                f"the job's data are dealt to {', '.join(found)}, not to {self.name}: name a file with --data"
            )
        return found[self.name]


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
    insecure: bool = False,
    token: str = "",
    patience: float = 0.0,
    folder: Path,
    console: Console | None = None,
) -> Site:
    """Take part in a run as one client, until the server ends it; return the client's state at the end.

    data: this client's own file.
    eval_data: beside it, the file that this client evaluates on; default: a share of `data` is held out.
    job_data: instead, take this client's share of the job's data set.
    model: the base model, where this machine has it under another name.
    certs: folder of this client's certificate.
    authority: instead, PEM of the authority that must have signed the server's certificate.
    token: the secret that the server asks for.
    patience: seconds without any server before LostError.

    Raises NetworkError, DataError, ModelError, OutputError.
    """
    console = console or make_console()

    say = partial(notice, console)
    if not data and not job_data:
        raise JobError(
            "no data given: use --data FILE, or --job-data to take this client's share of the job's data set"
        )
    if data and job_data:
        raise JobError("--data FILE or --job-data, not both")
    if eval_data and not data:
        raise JobError("--eval-data goes with --data FILE; with --job-data the job's eval_files are read")
    for file in filter(None, (data, eval_data)):
        check_file(file)  # before the server is told that this client is there

    def dial(address: str) -> Dial:
        return dial_aggregator(address, name, certs, insecure, token, say)

    credentials = channel_credentials(server, certs, insecure, authority)
    dialler = Dialler(server, credentials, name, token, MAX_PAYLOAD, say, patience)
    site = Site(Conversation(dialler), folder, ClientSetup(name, data, eval_data, model, console, dial))
    try:
        with lock_folder(folder, "--folder"):
            end = site.run()
    finally:
        dialler.close()
    if not end.ok:
        raise NetworkError(f"the run has not come to its end: {end.reason}")
    console.print(end.reason)
    return site

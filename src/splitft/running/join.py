"""`splitft client`: one client, with its own data, of a run whose server is elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from splitft.client.client import Client, ClientRole
from splitft.common.lock import lock_folder
from splitft.common.notebook import make_console
from splitft.common.notices import Notice
from splitft.common.quiet import quiet_libraries
from splitft.common.text import first_few, plain
from splitft.data import ClientData, prepare
from splitft.data.table import check_file
from splitft.engines.network.aggregator_link import dial_aggregator
from splitft.engines.network.client_sums import NoSums
from splitft.engines.network.control import Welcome
from splitft.engines.network.conversation import Conversation
from splitft.engines.network.desk import Desk, Dial
from splitft.engines.network.request_gate import RequestGate
from splitft.engines.network.sameness import difference, facts_of
from splitft.engines.network.site import Joined, Site
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.errors import AggregatorError, DataError, JobError, MismatchError, NetworkError, PolicyError
from splitft.job import Job
from splitft.job.exposure import exposure
from splitft.job.site_policy import SitePolicy, check_policy, load_policy, may_adapt
from splitft.job.told import read_told
from splitft.lora.dp.plan import plan_of
from splitft.lora.ranks import held_blocks
from splitft.model.config import count_blocks
from splitft.model.head import HeadForm
from splitft.model.split_model import ServerInputs, SplitModel
from splitft.proof.head import try_head, whole_loss_notice
from splitft.running.agreement import Agreement
from splitft.running.baselines.whole import WholeClient
from splitft.running.facts import config_facts, data_digest, tokenizer_facts, version_facts, weight_facts
from splitft.running.headline import two_columns
from splitft.running.meters import OwnMeter
from splitft.running.model import add_blocks, base_config, inject_adapters, load_base, make_split_model
from splitft.running.names import check_client_names
from splitft.running.network import client_names, notice
from splitft.running.prepare import check_config, note, offered_cuts, own_cut
from splitft.running.private import check_private, kept_ledger, plan_text
from splitft.running.site_checks import (
    check_front,
    check_memory,
    check_model_files,
    check_whole,
    most_bytes_down,
)
from splitft.running.site_lines import SiteLines
from splitft.running.sums import no_sums, sums_of
from splitft.weights.load import load_tokenizer
from splitft.wire.channel import Channel, sample_memory
from splitft.wire.messages import AdapterDown

FIRST_PAYLOAD = 1 << 20  # bytes of a message before the job is known


@dataclass
class ClientSetup:
    """Makes a client from the server's welcome: the job, and the names of the modules with LoRA.

    Attributes:
        dial: Returns a function that dials an aggregator, given its address.
        policy: The word of the client's owner on every job.
        agree: Asks the owner about a job; None: whatever the policy allows is agreed to.
        server: HOST:PORT that the client dials.
        sums: Returns the client's part in the masked sums of a job.
        folder: The client's own; with differential privacy its ledger is there.
    """

    name: str
    data: Path | None
    eval_data: Path | None
    model: str | None
    console: Console
    dial: Callable[[str], Dial]
    policy: SitePolicy = field(default_factory=SitePolicy)
    agree: Agreement | None = None
    server: str = ""
    sums: Callable[[Job, list[str], int | None], NoSums] = no_sums
    folder: Path | None = None
    _held: frozenset[int] = frozenset()
    _facts: dict[str, str] = field(default_factory=dict)
    _told: tuple[Job, Welcome, HeadForm] | None = None

    def make(self, welcome: Welcome) -> Joined:
        """Have the job agreed to; read the data, and load the blocks of the job's cut.

        Raises:
            PolicyError, JobError, DataError, ModelError, NetworkError.
        """
        quiet_libraries()
        # The job: what the site's policy and its owner say, before anything is done.
        told, unknown = read_told(welcome.job, welcome.optional, Job)
        if unknown:
            keys = first_few([plain(key, 80) for key in unknown], 8)
            note(self.console, f"the server's job has {keys}, which this version of splitft does not know")
        self._agree(told, list(welcome.targets))
        job = self._own_job(told)
        with naming_the_job():
            check_client_names(job)
        self.console.print(two_columns({"server reads": exposure(job, told.network.aggregator).summary}))

        # Configuration and tokenizer are the server's; then the data, and the blocks.
        config = base_config(job)
        tokenizer = load_tokenizer(job.model_name_or_path, job.model_revision)
        self._compare(welcome, config_facts(config) | tokenizer_facts(tokenizer) | version_facts())
        with self.console.status("reading the data"), naming_the_job():
            data = self._own_data(job, tokenizer)
            check_config(job, config, [data])
        cut = own_cut(told, self.name, client_names(told))
        blocks = count_blocks(config)
        held = frozenset(held_blocks(job, blocks, cut).on_client(range(blocks))) if job.splits_model else None
        model = self._load(job, told.model_name_or_path, welcome, held)

        # The client, and the gate for what the server asks of it.
        pad, digest = cast(int, tokenizer.pad_token_id), data_digest(data.train, data.eval)
        client: ClientRole
        if job.splits_model:
            client = Client(self.name, data, model, job, pad, sample_memory(job, model.width))
        else:
            check_private(job, model)
            ledger = kept_ledger(job, self.name, self.folder, digest)
            client = WholeClient(self.name, data, model, job, pad, ledger)
            if job.dp.active:
                text = plan_text(plan_of(job, len(data.train)), job.max_grad_norm)
                self.console.print(two_columns({"privacy": text}))
        cuts = offered_cuts(told, blocks)
        gate = RequestGate(job, self.policy, blocks, cuts=cuts, eval_rows=len(data.eval))
        channel = Channel(job, model.width, client.memory)
        sums = self.sums(told, client_names(told), told.network.min_clients)
        return Joined(client, channel, gate, digest, most_bytes_down(job, model), sums)

    def need(self, client: ClientRole, cut: int) -> None:
        """Hold the blocks of a cut; those that are here already stay."""
        blocks = client.model.num_blocks
        wanted = frozenset(held_blocks(client.settings, blocks, cut).on_client(range(blocks)))
        if missing := wanted - self._held:
            assert self._told is not None
            job, welcome, head = self._told
            check_memory(self.policy, client.model, len(missing))
            targets = welcome.targets, welcome.excluded
            model = add_blocks(job, client.model, self.console, missing, targets, head)
            self._compare(welcome, weight_facts(model.model, missing, moved=job.moves_base))
            self._held |= missing
            client.use_model(model)

    def facts(self) -> dict[str, str]:
        """Return what must be as at the server, of the blocks that are held."""
        return dict(self._facts)

    def check_adapter(self, client: ClientRole, message: AdapterDown) -> None:
        """Raise PolicyError where adapters that were handed out undo the front."""
        if client.settings.splits_model:
            adapter = client.state()["adapter"]
            front = {block: adapter[block] for block in message.blocks if block < message.cut}
            check_front(self.policy, client.model, front)

    def open_desk(self, on_end: Callable[[AggregatorError], None]) -> Desk | None:
        """Dial the job's aggregator, if it has one. on_end: as of `Desk`."""
        aggregator = self._told[0].network.aggregator if self._told else None
        return Desk(self.dial(aggregator), on_end) if aggregator else None

    def _agree(self, told: Job, layers: list[str]) -> None:
        """Hold a job to the policy, and have its owner agree to it. Raises PolicyError."""
        check_policy(self.policy, told, told.network.aggregator, self.server, job_data=self.data is None)
        if foreign := may_adapt(self.policy, layers):
            raise PolicyError(
                f"the site's policy refuses the server's job: adapters on {plain(', '.join(foreign))}, "
                f"allowed {', '.join(self.policy.target_modules or ())} (target_modules)"
            )
        if self.agree is not None:
            hub = told.dataset_name and f"{told.dataset_name}, revision {told.dataset_revision}"
            named = hub or told.data_files
            data = f"--data {self.data}" if self.data else f"the job's: {named}"
            self.agree.require(told, layers, data)

    def _compare(self, welcome: Welcome, facts: dict[str, str]) -> None:
        """Note facts of this client. Raises MismatchError where they are not the server's."""
        self._facts |= facts
        apart = difference(facts, facts_of(welcome.things, welcome.values))
        if apart:
            raise MismatchError(
                f"what is loaded here is not what the server has ({plain(apart)}): name the same model and "
                "revision, here with --model where it has another name"
            )

    def _load(self, job: Job, named: str, welcome: Welcome, blocks: frozenset[int] | None) -> SplitModel:
        """Return the model with these blocks alone; None: with all. named: by the server."""
        head = job.labels == "client" or blocks is None
        if blocks is None:
            check_whole(self.policy, lambda: load_base(job, self.console, weights=False))
        base = load_base(job, self.console, blocks=blocks, head=head)
        check_model_files(self.policy, named, job)
        form: HeadForm = "whole"
        if head and job.loss_chunk_tokens:
            form, reason = try_head(base, job.seed, whole=blocks is None)
            if reason:
                note(self.console, whole_loss_notice(reason))
        inputs = cast(ServerInputs, welcome.server_inputs)
        slots = inject_adapters(job, base, (welcome.targets, welcome.excluded))
        self._compare(welcome, weight_facts(base, moved=job.moves_base))
        model = make_split_model(job, base, slots, inputs, form)
        self._held = frozenset(range(model.num_blocks)) if blocks is None else blocks
        self._told = job, welcome, form
        check_memory(self.policy, model, 0)
        return model

    def _own_job(self, job: Job) -> Job:
        """Return the server's job as this client reads it: a job of one client where the data are its own."""
        # No rule is asked again: those of all clients together do not hold for one.
        changes: dict[str, Any] = {"redact": self.policy.redact}
        changes |= {"model_name_or_path": self.model} if self.model else {}
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


MOST_TOLD = 1000  # characters of an error, which may quote a server's job


@contextmanager
def naming_the_job() -> Iterator[None]:
    """Have errors that advise to set a key say that the job is the server's."""
    try:
        yield
    except (DataError, JobError) as error:
        keys = [key for key in Job.model_fields if re.search(rf"\b{key}\b", str(error))]
        if str(error).startswith("redact.") or "(redact." in str(error):  # the site's own word
            raise
        told = str(error)[:MOST_TOLD]
        if not keys:
            raise type(error)(told) from None
        whose = f"{max(keys, key=len)} is a key of the server's job"
        raise type(error)(f"{told} ({whose}: change what is here, or ask for another job)") from None


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

    Raises PolicyError, NetworkError, DataError, ModelError, OutputError.
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

    agreement = Agreement(folder, accept, console)
    own = load_policy(policy, folder)
    sums = partial(sums_of, name, certs, folder, own, say)
    setup = ClientSetup(name, data, eval_data, model, console, dial, own, agreement, server, sums, folder)
    credentials = channel_credentials(server, certs, insecure, authority, ca)
    dialler = Dialler(server, credentials, name, token, FIRST_PAYLOAD, say, patience)
    reading = (lambda done, rounds: meter.lines(site.client, done, rounds)) if meter else None
    site: Site = Site(Conversation(dialler), folder, setup, SiteLines(say, reading))
    try:
        with lock_folder(folder, "--folder"):
            end = site.run()
    finally:
        dialler.close()
    if not end.ok:
        raise NetworkError(f"the run has not come to its end: {end.reason}")
    console.print(Notice(end.reason, "end"), markup=False, highlight=False)
    return site

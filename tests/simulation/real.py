"""The computing of a run with a real model: a tiny llama under the real server, gate, guard and clients.

Weights and rows are made once. All parties of a process compute on one copy of the base, as the parties of a
run in one process do; adapters, optimizers and all that changes are their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from simulation.kit import Around
from simulation.modes import Mode
from splitft import Job
from splitft.client.client import Client, ClientRole
from splitft.common.seeds import numpy_generator
from splitft.cuts.planner import CutPlanner
from splitft.data import ClientData, Rows
from splitft.engines.network.gate import Gate
from splitft.engines.network.members import Gate as Check
from splitft.engines.network.request_gate import RequestGate
from splitft.engines.network.site import Joined
from splitft.job.site_policy import SitePolicy
from splitft.lora.initial import new_adapter
from splitft.proof.head import try_head
from splitft.running.baselines.whole import WholeClient, WholeModels
from splitft.running.batching import batch_tokens
from splitft.running.facts import data_digest, weight_facts
from splitft.running.model import inject_adapters, load_base, make_split_model
from splitft.running.prepare import offered_cuts
from splitft.running.private import kept_ledger
from splitft.running.site_checks import check_front, most_bytes_down
from splitft.running.sums import sums_of
from splitft.server.guard import Guard
from splitft.server.parts import micro_batches
from splitft.server.probe import AdapterProbe
from splitft.server.server import Server
from splitft.wire.channel import Channel, sample_memory
from splitft.wire.messages import AdapterDown
from tiny import PAD_ID, tiny_model

BLOCKS, HIDDEN, WORDS = 4, 16, 48
ROWS, EVAL_ROWS, LONGEST = 5, 3, 6  # of each client's data; tokens of a row


class RealKit:
    """A model of four blocks, and all that trains it."""

    num_blocks = BLOCKS

    def __init__(self, job: Job) -> None:
        quiet = Console(quiet=True)
        base = tiny_model(
            "llama", num_hidden_layers=BLOCKS, hidden_size=HIDDEN, vocab_size=WORDS, num_attention_heads=2
        )
        model = load_base(job, quiet, model=base)
        assert isinstance(job.lora_target_modules, list)
        slots = inject_adapters(job, model, (job.lora_target_modules, []))
        self.facts = weight_facts(model)
        self.model = make_split_model(job, model, slots, "dummy_ids", try_head(model, job.seed)[0])
        self.layout, self.width = dict(slots.layout), self.model.width
        cuts = job.cuts if isinstance(job.cuts, list) else [job.cuts]
        self.batch_tokens = batch_tokens(job, self.model, cuts, quiet)
        self.adapter = new_adapter(slots.layout, job.lora_r, job.seed)

    def policy(self, mode: Mode) -> CutPlanner | WholeModels:
        if not mode.job.splits_model:
            return WholeModels(mode.names, BLOCKS)
        blocks = BLOCKS - mode.job.num_tail_blocks
        most = dict.fromkeys(mode.names, blocks - 1)
        return CutPlanner(mode.job, mode.cuts_of(0), most, blocks, measured=True)

    def server(self, job: Job, around: Around) -> Server:
        probe = AdapterProbe(self.model, WORDS, LONGEST, job.without_padding, around.held_out)
        roster = around.roster
        return Server(
            self.model,
            job,
            {block: {n: t.clone() for n, t in tensors.items()} for block, tensors in self.adapter.items()},
            batch_tokens=self.batch_tokens,
            micro_batches=micro_batches(
                job, lambda name: roster[name].rows, around.times.parts, roster.there
            ),
            averager=around.averager,
            log=around.log,
            guard=Guard(probe.problem, around.blame, around.notice, tries=around.secure is None),
            dropped=lambda: around.secure.dropped if around.secure else (),
        )

    def gate(self, job: Job, server: Server, channels: Mapping[str, Channel], only_digests: bool) -> Check:
        return Gate(
            job,
            server.coordinator.layout,
            server.coordinator.holdings,
            channels,
            hidden_size=self.width,
            vocab_size=WORDS,
            max_length=LONGEST,
            dtype=torch.float32,
            needs_ids=False,
            only_digests=only_digests,
            adapter=lambda: server.adapter,
        ).check

    def joined(self, name: str, job: Job, policy: SitePolicy, folder: Path) -> Joined:
        data, model = rows_of(name), self.model
        digest = data_digest(data.train, data.eval)
        names = [f"client-{number}" for number in range(job.clients)]
        sums = sums_of(name, None, folder, policy, lambda text: None, job, names, job.network.min_clients)
        client: ClientRole
        if job.splits_model:
            client = Client(name, data, model, job, PAD_ID, sample_memory(job, model.width))
        else:
            client = WholeClient(name, data, model, job, PAD_ID, kept_ledger(job, name, folder, digest))
        gate = RequestGate(job, policy, BLOCKS, offered_cuts(job, BLOCKS), len(data.eval))
        channel = Channel(job, model.width, client.memory)
        return Joined(client, channel, gate, digest, most_bytes_down(job, model), sums)

    def check_adapter(self, policy: SitePolicy, client: ClientRole, message: AdapterDown) -> None:
        if not client.settings.splits_model:
            return
        adapter = client.state()["adapter"]
        front = {block: adapter[block] for block in message.blocks if block < message.cut}
        check_front(policy, client.model, front)


@cache
def rows_of(name: str) -> ClientData:
    """Return the rows of a client."""
    draw = numpy_generator(0, "simulated rows", name)

    def rows(count: int) -> Rows:
        lengths = draw.integers(3, LONGEST + 1, count)
        ids = [draw.integers(2, WORDS, length).astype(np.int32) for length in lengths]
        return Rows(ids, ids, np.asarray(lengths, dtype=np.int64), np.arange(count, dtype=np.int64))

    return ClientData(name, rows(ROWS), rows(EVAL_ROWS))

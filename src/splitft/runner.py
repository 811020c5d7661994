"""`run(job)`: everything around the rounds: data, model, proof of the split, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from splitft.errors import JobError, ModelError
from splitft.history import RoundRecord, strict_json, summarise
from splitft.job import Job
from splitft.output import append_line, check_output_dir, write_atomically
from splitft.quiet import quiet_libraries

if TYPE_CHECKING:
    from splitft.data import Rows


@dataclass(frozen=True)
class RunResult:
    """What a run made. history: one record a round, the first before training."""

    output_dir: Path
    adapter_path: Path
    history: list[RoundRecord]
    summary: dict[str, Any]


def run(job: Job, *, console: Console | None = None) -> RunResult:
    """Fine-tune as the job says, all parties in this process, and write the results to `output_dir`.

    console: where progress is shown; `Console(quiet=True)` shows nothing. An interrupt keeps the adapter and
    the history of the last complete round, and is raised again. Raises JobError, DataError, ModelError,
    OutputError.
    """
    console = console or Console()
    folder = check_output_dir(job.output_dir)
    quiet_libraries()

    import torch

    from splitft import adapters
    from splitft.check import check_split
    from splitft.client import Client
    from splitft.data import partition_picture, partition_table, prepare
    from splitft.engines.local import LocalCohort
    from splitft.export import load_adapter, save_adapter, usage_hints
    from splitft.job import dump_job
    from splitft.ledger import Ledger
    from splitft.load import load_model, load_tokenizer, resolve_model
    from splitft.modelcard import model_card
    from splitft.parts import SplitModel
    from splitft.progress import RunProgress, final_tables
    from splitft.report.curves import perplexity_picture
    from splitft.round import run_rounds
    from splitft.server import Server
    from splitft.split import num_blocks

    base = str(resolve_model(job.model_name_or_path, job.model_revision))
    tokenizer = load_tokenizer(job.model_name_or_path, job.model_revision)
    with console.status("reading and dealing the data"):
        prepared = prepare(job, tokenizer)
    names = [client.name for client in prepared.clients]
    console.print(partition_table(prepared.report))

    with console.status(f"loading {job.model_name_or_path}"):
        model = load_model(
            job.model_name_or_path,
            revision=job.model_revision,
            dtype=torch.bfloat16 if job.bf16 else torch.float32,
            attn_implementation=job.attn_implementation,
        ).to(device_for(job))
    check_positions(job, model)
    check_vocabulary(job, model, (rows for c in prepared.clients for rows in (c.train, c.eval)))
    cuts = resolve_cuts(job, names, num_blocks(model))
    with console.status("proving that the split is exact"):
        report = check_split(
            model, sorted(set(cuts.values())), tail_blocks=job.tail_blocks, labels=job.labels, seed=job.seed
        )
    if not report.ok:
        raise ModelError(f"{job.model_name_or_path} cannot be split: {report.reason}")
    console.print(
        f"split proven on the model itself at cuts {', '.join(map(str, report.cuts))} of {report.num_blocks} "
        f"blocks: largest logit difference {report.max_logit_difference:g}",
        highlight=False,
    )

    targets, excluded = adapters.resolve_targets(model, job.lora_target_modules)
    config = adapters.lora_config(
        targets,
        excluded,
        r=job.lora_r,
        alpha=job.lora_alpha,
        dropout=job.lora_dropout,
        fan_in_fan_out=adapters.uses_fan_in_fan_out(model),
    )
    slots = adapters.inject(model, config)
    if job.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if job.adapter_name_or_path:
        adapter = load_adapter(job.adapter_name_or_path, slots, job)
    else:
        adapter = adapters.initial_adapter(slots.layout, job.lora_r, job.seed)
    adapter = {b: {n: t.to(model.device) for n, t in block.items()} for b, block in adapter.items()}

    split = SplitModel(model, slots, seed=job.seed, server_inputs=report.server_inputs)
    server = Server(split, job, adapter)
    clients = [Client(d.name, d, split, job, tokenizer.pad_token_id) for d in prepared.clients]
    ledger = Ledger()
    cohort = LocalCohort(clients, ledger)

    dump_job(job.model_copy(update={"clients": len(names)}), folder / "job.yaml")
    write_atomically(folder / "partition.json", json.dumps(prepared.report.to_dict(), indent=1))
    partition_picture(prepared.report, folder / "partition.png")
    records: list[RoundRecord] = []
    finished = server.adapter  # of the last record; an interrupted round may be averaged already

    def save() -> dict[str, Any]:
        summary = summarise(records) | {
            "interrupted": len(records) <= job.rounds,
            "cuts": dict(cuts),
            "blocks": report.num_blocks,
            "split": {"max_logit_difference": report.max_logit_difference, "inputs": report.server_inputs},
            "bytes": ledger.by_kind(),
            "parameters": parameter_counts(model, adapter, cuts),
            "device": str(model.device),
            "versions": versions(),
        }
        card = model_card(job, summary, base)
        save_adapter(folder / "adapter", finished, slots, job, targets, card, base)
        write_atomically(folder / "summary.json", strict_json(summary, indent=1))
        return summary

    with RunProgress(job, len(names), ledger, console) as progress:
        try:
            for record in run_rounds(job, cuts, server, cohort, ledger, progress):
                records.append(record)
                finished = dict(server.adapter)
                append_line(folder / "history.jsonl", record.to_json())
                summary = save()  # every round: whatever ends the run, the last whole round is there
            perplexity_picture(records, folder / "perplexity.png")
        except KeyboardInterrupt:
            if records:
                save()
                perplexity_picture(records, folder / "perplexity.png")
                progress.__exit__(None, None, None)
                done = records[-1].round
                console.print(f"interrupted after round {done}; its adapter is {folder}/adapter")
            raise
    for table in final_tables(records):
        console.print(table)
    console.print(
        f"Results in {folder}: adapter/, history.jsonl, summary.json, perplexity.png, partition.png"
    )
    console.print(usage_hints(folder, base, job.lora_r), highlight=False, soft_wrap=True, markup=False)
    return RunResult(folder, folder / "adapter", records, summary)


def resolve_cuts(job: Job, names: Sequence[str], blocks: int) -> dict[str, int]:
    """Return {client: cut}. Raises JobError where a cut leaves the server without a block."""
    cuts = job.cuts if isinstance(job.cuts, list) else [job.cuts] * len(names)
    if len(cuts) != len(names):
        raise JobError(f"cuts has {len(cuts)} entries for {len(names)} clients ({', '.join(names)})")
    highest = blocks - job.tail_blocks - 1
    if highest < 1:
        raise JobError(
            f"the model has {blocks} blocks and tail_blocks is {job.tail_blocks}, but client and server need "
            "one each before the tail: lower tail_blocks, or choose a model with more blocks"
        )
    wrong = [f"{name}: {cut}" for name, cut in zip(names, cuts, strict=True) if cut > highest]
    if wrong:
        tail = f" and tail_blocks={job.tail_blocks}" if job.tail_blocks else ""
        raise JobError(
            f"cuts must lie between 1 and {highest}, since the model has {blocks} blocks{tail} and the "
            f"server needs at least one; got {', '.join(wrong)}"
        )
    return dict(zip(names, cuts, strict=True))


def check_positions(job: Job, model: Any) -> None:
    """Raise JobError where max_length exceeds the positions that the model was made for."""
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < job.max_length:
        raise JobError(
            f"max_length is {job.max_length}, the model takes {positions} tokens: lower max_length"
        )


def check_vocabulary(job: Job, model: Any, data: Iterable[Rows]) -> None:
    """Raise ModelError where rows hold token ids that the model has no embedding for."""
    known = getattr(model.config.get_text_config(decoder=True), "vocab_size", None)
    highest = max((int(ids.max()) for rows in data for ids in rows.input_ids), default=0)
    if isinstance(known, int) and highest >= known:
        raise ModelError(
            f"the tokenizer of {job.model_name_or_path} gives token id {highest}, but the model's vocabulary "
            f"ends at {known - 1}: the tokenizer is another model's"
        )


def device_for(job: Job) -> Any:
    """Return the accelerator where there is one and the job allows it, else the CPU."""
    import torch

    accelerator = None if job.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def parameter_counts(model: Any, adapter: Mapping[int, Any], cuts: Mapping[str, int]) -> dict[str, Any]:
    """Return counts of base and adapter parameters, and of those that each client trains."""
    per_block = {block: sum(t.numel() for t in tensors.values()) for block, tensors in adapter.items()}
    base = sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name)
    clients = {name: sum(n for b, n in per_block.items() if b < cut) for name, cut in cuts.items()}
    return {"base": base, "adapter": sum(per_block.values()), "front_adapters": clients}


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("splitft", "torch", "transformers", "peft", "datasets")}

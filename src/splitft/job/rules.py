"""Rules that tie several keys of a job together. A pure function over key values, free of pydantic."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any


def broken_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule that `job` breaks.

    `job` maps dotted keys (`lora_r`, `partition.method`) to values that are valid each on their own. Keys
    with a wrong value are left out; a rule is judged where all of its keys are there.
    """

    def known(*keys: str) -> bool:
        return all(key in job for key in keys)

    if known("dataset_name", "data_files"):
        given = [key for key in ("dataset_name", "data_files") if job[key] is not None]
        if len(given) == 2:
            yield "dataset_name", "set dataset_name or data_files, not both; null unsets one"
        elif not given and job.get("network.clients") is None:
            yield "dataset_name", "no data: set dataset_name (e.g. builtin:sotu) or data_files"

    if known("partition.method", "partition.column"):
        method = job["partition.method"]
        if method in ("by_column", "dirichlet") and job["partition.column"] is None:
            yield "partition.column", f"method {method} needs the name of a column"

    if known("partition.method", "data_files"):
        method, files = job["partition.method"], job["data_files"]
        if method == "files" and files is None:
            yield "partition.method", "files needs data_files: one file per client"
        elif method != "files" and isinstance(files, Mapping):
            yield (
                "partition.method",
                f"data_files names a file per client, which is method files, not {method}; "
                "to deal all rows anew, give data_files as a list",
            )

    if known("clients", "clients_per_round"):
        clients, per_round = job["clients"], job["clients_per_round"]
        if per_round is not None and per_round > clients:
            yield "clients_per_round", f"{per_round} is more than clients ({clients})"

    if known("network.clients", "clients") and job["network.clients"] is not None:
        names = job["network.clients"]
        if len(set(names)) < len(names):
            yield "network.clients", "a name is given twice"

    if known("network.clients", "network.min_clients", "clients") and job["network.min_clients"] is not None:
        count = len(job["network.clients"] or range(job["clients"]))
        if job["network.min_clients"] > count:
            yield (
                "network.min_clients",
                f"{job['network.min_clients']} is more than there are clients ({count})",
            )

    yield from broken_cut_rules(job)

    if known("labels", "tail_blocks"):
        labels, tail_blocks = job["labels"], job["tail_blocks"]
        if labels == "client" and tail_blocks == 0:
            yield (
                "tail_blocks",
                "labels: client keeps the last blocks at home: leave it out, or set 1 or more",
            )
        elif labels == "server" and tail_blocks:
            yield (
                "tail_blocks",
                f"must be 0 with labels: server, not {tail_blocks}; set labels: client for a tail at home",
            )

    if known("loss_chunk_tokens") and 0 < job["loss_chunk_tokens"] < 32:
        yield (
            "loss_chunk_tokens",
            f"{job['loss_chunk_tokens']} is too few to be fast: set 128 or more (at least 32), or 0 for the "
            "full logits",
        )

    batches_clients = known("server_batch_tokens") and job["server_batch_tokens"] != "off"
    if known("padding_free") and job["padding_free"] and batches_clients:
        yield (
            "padding_free",
            "does not go with server_batch_tokens, which computes padded rows: leave out one of the two",
        )

    if known("devices", "micro_batches") and job["devices"] and isinstance(job["micro_batches"], int):
        yield (
            "micro_batches",
            f"must be off with devices, not {job['micro_batches']}: the virtual clock counts the parts of a "
            "batch one after another, and would tell times that are too long",
        )

    if known("max_staleness") and job["max_staleness"]:
        if known("labels") and job["labels"] == "client":
            yield (
                "max_staleness",
                "needs labels: server: with a tail at home the trunk would change between its two ways up",
            )
        if known("devices") and job["devices"]:
            yield "max_staleness", "must be 0 with devices: the virtual clock counts steps one after another"

    if known("train_front", "cut_policy.method") and not job["train_front"]:
        method = job["cut_policy.method"]
        if method != "fixed":
            yield (
                "train_front",
                f"false needs cut_policy.method fixed, not {method}: a block is trained by all or by nobody",
            )

    if known("train_front", "codec") and not job["train_front"] and job["codec"] == "delta":
        yield "codec", "delta sends what changes, and with train_front: no nothing does; set int4 or int8"

    for key in ("gradient_codec", "eval_codec"):
        if known(key) and job[key] == "delta":
            yield key, "delta is for codec; set int8, int4, int3 or int2 here, or leave it out"

    for key in ("codec", "gradient_codec", "eval_codec"):
        if known(key) and job[key] == "auto":
            yield key, "auto is no codec any more: `splitft plan JOB --codecs` tries all; write one of them"

    if known("lora_r", "lora_r_cut"):
        lora_r, lora_r_cut = job["lora_r"], job["lora_r_cut"]
        if lora_r_cut is not None and lora_r_cut > lora_r:
            yield "lora_r_cut", f"{lora_r_cut} is more than lora_r ({lora_r})"

    if known("aggregation", "robust_aggregation"):
        kind = job["robust_aggregation"]
        if kind not in ("none", "norm_clip") and job["aggregation"] in ("exact", "freeze_a"):
            yield (
                "robust_aggregation",
                f"{kind} takes the place of aggregation {job['aggregation']}; set by_rank",
            )

    if known("lr_scheduler_type", "warmup_steps", "warmup_ratio") and job["lr_scheduler_type"] == "constant":
        for key in ("warmup_steps", "warmup_ratio"):
            if job[key] > 0:
                yield key, "lr_scheduler_type constant has no warm-up; use constant_with_warmup"

    if known("warmup_steps", "rounds", "local_steps"):
        steps = job["rounds"] * job["local_steps"]
        if job["warmup_steps"] > steps:
            yield "warmup_steps", f"{job['warmup_steps']} is more than all rounds × local_steps ({steps})"


_ROUND = re.compile(r"[1-9][0-9]*")


def broken_cut_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule about cuts and devices that `job` breaks; see `broken_rules`."""
    for key in ("cuts", "devices"):
        if key in job and isinstance(job[key], list):
            problem = _length_problem(job, job[key])
            if problem:
                yield key, problem

    method, devices = job.get("cut_policy.method"), job.get("devices")
    measured = job.get("network.clients") is not None  # over a network, what steps take is measured
    if method in ("resource", "makespan") and "devices" in job and devices is None and not measured:
        yield (
            "devices",
            f"cut_policy.method {method} goes by the clients' devices: set them, e.g. devices: laptop",
        )

    low, high = job.get("cut_policy.min_cut"), job.get("cut_policy.max_cut")
    if low is not None and high is not None and low > high:
        yield "cut_policy.min_cut", f"{low} is more than cut_policy.max_cut ({high})"
    for cut in job["cuts"] if isinstance(job.get("cuts"), list) else [job.get("cuts")]:
        problem = _bound_problem(job, cut)
        if problem:
            yield "cuts", problem
            break

    # Every client starts with weight 1.
    if job.get("cut_policy.w_min", 1) > 1:
        yield (
            "cut_policy.w_min",
            f"must be at most 1, where every weight starts, not {job['cut_policy.w_min']:g}",
        )
    if job.get("cut_policy.w_max", 1) < 1:
        yield (
            "cut_policy.w_max",
            f"must be at least 1, where every weight starts, not {job['cut_policy.w_max']:g}",
        )

    if method is not None and "cut_policy.schedule" in job:
        schedule = job["cut_policy.schedule"]
        if method == "schedule" and not schedule:
            yield "cut_policy.schedule", "method schedule needs at least one entry, e.g. {1: 2, 10: 4}"
        elif method != "schedule" and schedule is not None:
            yield "cut_policy.schedule", f"is for method schedule, not {method}: set the method, or remove it"
        for problem in _entry_problems(job, schedule or {}):
            yield "cut_policy.schedule", problem


def _entry_problems(job: Mapping[str, Any], schedule: Mapping[str | int, Any]) -> Iterator[str]:
    for round_, entry in schedule.items():
        if not _ROUND.fullmatch(str(round_)):
            yield f"{round_!r} is not the number of a round: 1, 2, ..."
        problem = _length_problem(job, entry) if isinstance(entry, list) else None
        for cut in entry if isinstance(entry, list) else [entry]:
            problem = problem or _bound_problem(job, cut)
        if problem:
            yield f"round {round_}: {problem}"


def _length_problem(job: Mapping[str, Any], entries: list[Any]) -> str | None:
    """One entry per client. Natural sites are counted when the data are read: the run checks theirs."""
    clients, partition = job.get("clients"), job.get("partition.method")
    if clients is None or partition in (None, "by_column", "files") or len(entries) == clients:
        return None
    return f"needs one entry per client: clients is {clients}, the list has {len(entries)}"


def _bound_problem(job: Mapping[str, Any], cut: int | None) -> str | None:
    low, high = job.get("cut_policy.min_cut"), job.get("cut_policy.max_cut")
    if cut is None or (low is not None and high is not None and low > high):
        return None
    if low is not None and cut < low:
        return f"{cut} is less than cut_policy.min_cut ({low})"
    if high is not None and cut > high:
        return f"{cut} is more than cut_policy.max_cut ({high})"
    return None

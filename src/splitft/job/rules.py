"""Rules that tie several keys of a job together. A pure function over key values, free of pydantic."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from splitft.job.algorithm_rules import broken_algorithm_rules
from splitft.job.connected import broken_connected_rules
from splitft.job.dp import broken_dp_rules
from splitft.job.privacy import broken_privacy_rules
from splitft.job.secure import broken_secure_rules

BUILT_IN = {  # methods that take no options
    "partition": ("iid", "length_dirichlet", "dirichlet", "by_column", "files"),
    "cut_policy": ("fixed", "schedule", "resource", "accuracy", "splitft", "makespan"),
}
RULE = "cross_field_rule"  # the pydantic error type of a broken rule


def broken_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule that `job` breaks.

    `job` maps dotted keys (`lora_r`, `partition.method`) to values that are valid each on their own. Keys
    with a wrong value are left out; a rule is judged where all of its keys are there.
    """

    get = job.get

    if "dataset_name" in job and "data_files" in job:
        given = [key for key in ("dataset_name", "data_files") if job[key] is not None]
        if len(given) == 2:
            yield "dataset_name", "set dataset_name or data_files, not both; null unsets one"
        elif not given and get("network.clients") is None and get("network.clients_file") is None:
            yield "dataset_name", "no data: set dataset_name (e.g. builtin:sotu) or data_files"

    yield from broken_evaluation_rules(job)
    name = get("dataset_name", "")
    if get("dataset_revision", "main") != "main" and (name is None or name.startswith("builtin:")):
        yield "dataset_revision", f"is of a data set of the hub, not of {name or 'files'}: leave it out"
    if get("packing") is True and get("truncation_mode") == "chunk":
        yield "truncation_mode", "packing keeps all tokens of long rows already: leave out one of the two"
    for section, methods in BUILT_IN.items():
        if get(f"{section}.options") and get(f"{section}.method") in methods:
            yield f"{section}.options", f"is for a registered {section}, not for {job[f'{section}.method']}"

    partition = get("partition.method")
    if partition in ("by_column", "dirichlet") and get("partition.column", partition) is None:
        yield "partition.column", f"method {partition} needs the name of a column"
    if partition == "files" and get("data_files", partition) is None:
        yield "partition.method", "files needs data_files: one file per client"
    elif partition not in (None, "files") and isinstance(get("data_files"), Mapping):
        yield (
            "partition.method",
            f"data_files names a file per client, which is method files, not {partition}; "
            "to deal all rows anew, give data_files as a list",
        )

    registered = get("network.clients_file")  # it says how many there are
    clients, per_round = None if registered else get("clients"), get("clients_per_round")
    names, fewest = get("network.clients"), get("network.min_clients")
    if isinstance(get("data_files"), Mapping) and not names:  # a client each
        clients = len(job["data_files"])
    if clients and per_round and per_round > clients:
        yield "clients_per_round", f"{per_round} is more than clients ({clients})"

    if clients and names and len(set(names)) < len(names):
        yield "network.clients", "a name is given twice"
    elif clients and names and len(names) != clients:
        yield (
            "network.clients",
            f"names {len(names)}, and clients is {clients}: leave clients out, or set {len(names)}",
        )
    if clients and fewest and fewest > clients:
        yield "network.min_clients", f"{fewest} is more than there are clients ({clients})"

    init = get("init_lora_weights", True)
    if get("network.hand_out_adapter") and isinstance(init, str) and init.startswith(("pissa", "olora")):
        yield (
            "network.hand_out_adapter",
            f"an adapter that starts by {init} is exported with base weights, of which clients have a part: "
            "set false",
        )

    dtype = get("dtype")
    if dtype == "float16":
        yield (
            "dtype",
            "float16 rounds small gradients to zero where no loss is scaled up, which no step here does: set "
            "bfloat16, which takes as many bytes",
        )
    elif get("bf16") is True and dtype not in (None, "bfloat16"):
        yield "dtype", f"{dtype} contradicts bf16: true; set bf16: false, or leave out one of the two"

    yield from broken_cut_rules(job)

    labels, tail_blocks = get("labels"), get("tail_blocks")
    if labels == "client" and tail_blocks == 0:
        yield "tail_blocks", "labels: client keeps the last blocks at home: leave it out, or set 1 or more"
    elif labels == "server" and tail_blocks:
        yield (
            "tail_blocks",
            f"must be 0 with labels: server, not {tail_blocks}; set labels: client for a tail at home",
        )

    if get("server_evaluates") and labels == "client":
        yield (
            "server_evaluates",
            "true needs labels: server: with labels: client no token id leaves a client; leave it out",
        )
    elif get("server_evaluates") and get("eval_codec"):
        yield (
            "eval_codec",
            "is for rows that cross the cut: set server_evaluates: false, or leave out eval_codec",
        )

    if 0 < get("loss_chunk_tokens", 0) < 32:
        yield (
            "loss_chunk_tokens",
            f"{job['loss_chunk_tokens']} is too few to be fast: set 128 or more (at least 32), or 0 for the "
            "full logits",
        )

    if get("padding_free") is True and get("server_batch_tokens", "off") != "off":
        yield (
            "padding_free",
            "does not go with server_batch_tokens, which computes padded rows: leave out one of the two",
        )

    if get("train_front") is False and get("lora_target_parameters"):
        yield (
            "train_front",
            "no does not go with lora_target_parameters: peft gives experts adapters in every block",
        )

    if get("devices") and isinstance(get("micro_batches"), int):
        yield (
            "micro_batches",
            f"must be off with devices, not {job['micro_batches']}: the virtual clock counts the parts of a "
            "batch one after another, and would tell times that are too long",
        )

    if get("max_staleness") and labels == "client":
        yield (
            "max_staleness",
            "needs labels: server: with a tail at home the trunk would change between its two ways up",
        )
    if get("max_staleness") and get("devices"):
        yield "max_staleness", "must be 0 with devices: the virtual clock counts steps one after another"

    frozen, policy = get("train_front") is False, get("cut_policy.method", "fixed")
    if frozen and policy != "fixed":
        yield (
            "train_front",
            f"false needs cut_policy.method fixed, not {policy}: a block is trained by all or by nobody",
        )
    if frozen and get("codec") == "delta":
        yield "codec", "delta sends what changes, and with train_front: no nothing does; set int4 or int8"

    for key in ("gradient_codec", "eval_codec"):
        if get(key) == "delta":
            yield key, "delta is for codec; set int8, int4, int3 or int2 here, or leave it out"
    for key in ("codec", "gradient_codec", "eval_codec"):
        if get(key) == "auto":
            yield key, "auto is no codec any more: `splitft plan JOB --codecs` tries all; write one of them"

    lora_r, lora_r_cut = get("lora_r"), get("lora_r_cut")
    if lora_r and lora_r_cut and lora_r_cut > lora_r:
        yield "lora_r_cut", f"{lora_r_cut} is more than lora_r ({lora_r})"

    yield from broken_lora_rules(job)
    yield from broken_algorithm_rules(job)
    yield from broken_secure_rules(job)
    yield from broken_connected_rules(job)
    yield from broken_dp_rules(job)
    yield from broken_privacy_rules(job)

    kind = get("robust_aggregation", "none")
    if kind not in ("none", "norm_clip") and get("aggregation") in ("exact", "freeze_a"):
        yield (
            "robust_aggregation",
            f"{kind} takes the place of aggregation {job['aggregation']}; set by_rank",
        )

    warmups = {key: get(key) for key in ("warmup_steps", "warmup_ratio")}
    if get("lr_scheduler_type") == "constant" and None not in warmups.values():
        for key, value in warmups.items():
            if value:
                yield key, "lr_scheduler_type constant has no warm-up; use constant_with_warmup"
    steps, per_round = get("max_steps"), get("local_steps")
    if steps and per_round and steps % per_round:
        near = [
            count for count in (steps // per_round * per_round, (steps // per_round + 1) * per_round) if count
        ]
        yield (
            "max_steps",
            f"{steps} is no whole number of rounds of local_steps {per_round}: set "
            f"{' or '.join(map(str, near))}, or other local_steps",
        )
    if steps and get("num_train_epochs"):
        yield "max_steps", "set max_steps or num_train_epochs, not both; null unsets one"
    rounds, local_steps, warmup = get("rounds"), get("local_steps"), get("warmup_steps")
    if rounds and local_steps and warmup and warmup > rounds * local_steps:
        yield "warmup_steps", f"{warmup} is more than all rounds × local_steps ({rounds * local_steps})"


def broken_evaluation_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule about evaluation sets that `job` breaks; see `broken_rules`."""
    name, split = job.get("dataset_name"), job.get("dataset_test_split")
    if split is None:
        return
    if job.get("eval_files") is not None:
        yield "eval_files", "set eval_files or dataset_test_split, not both; null unsets one"
    elif "dataset_name" in job and name is None:
        yield "dataset_test_split", "is a split of dataset_name, which is not set: name files as eval_files"
    elif isinstance(name, str) and name.startswith("builtin:"):
        yield "dataset_test_split", f"{name} has one split: leave it out, and a part of the rows is held out"
    elif split == job.get("dataset_split"):
        yield "dataset_test_split", f"{split} is the split that is trained on: name another, or leave it out"


_STARTS = ("gaussian", "orthogonal", "pissa", "olora")
_NO_STARTS = {  # values of init_lora_weights that peft knows and SplitFT refuses
    "eva": "needs activations of the training data, which lie at the clients",
    "corda": "needs activations of the training data, which lie at the clients",
    "lora_ga": "needs gradients of the training data, which lie at the clients",
    "loftq": "needs a quantised base",
    "mica": "freezes B, and an average needs it trained",
}


def broken_lora_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule about adapters that `job` breaks; see `broken_rules`."""
    for key in ("lora_target_modules", "exclude_modules"):
        if isinstance(pattern := job.get(key), str):
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                yield key, f"no regular expression: {error}"

    init, experts = job.get("init_lora_weights", True), job.get("lora_target_parameters")
    if experts and job.get("layers_to_transform") is not None:
        yield (
            "layers_to_transform",
            "leave out lora_target_parameters: peft adapts experts in every block",
        )
    if experts and isinstance(init, str) and init != "gaussian":
        yield "init_lora_weights", f"peft has no {init} of experts: leave out lora_target_parameters"
    dora = job.get("use_dora") is True
    if dora and experts:
        yield "use_dora", "peft has no DoRA of experts: leave out lora_target_parameters"
    if dora and job.get("server_batch_tokens", "off") != "off":
        yield "use_dora", "DoRA's layers take the rows of one client at a time: set server_batch_tokens: off"
    if dora and job.get("devices"):
        yield "use_dora", "the virtual clock does not count DoRA's norms of the weights: leave out devices"

    if dora and isinstance(init, str) and init.startswith(("pissa", "olora")):
        yield "use_dora", f"peft converts no DoRA adapter that starts from {init}: set another start"
    if init is not True and job.get("adapter_name_or_path") is not None:
        yield "init_lora_weights", "adapter_name_or_path is the start already: leave out one of the two"
    if not isinstance(init, str):
        return
    if init not in _STARTS and not re.fullmatch(r"pissa_niter_[1-9]\d{0,2}", init):
        why = _NO_STARTS.get(init)
        hint = f"peft's {init} {why}; set" if why else f"no start is called {init!r}: set true, false,"
        yield "init_lora_weights", f"{hint} {', '.join(_STARTS)} or pissa_niter_N"
        return
    lower = job.get("lora_r_cut") not in (None, job.get("lora_r"))
    if lower and init == "orthogonal":
        yield "init_lora_weights", "orthogonal starts at zero with all components only: leave out lora_r_cut"
    elif lower and init != "gaussian":
        yield (
            "init_lora_weights",
            f"{init} moves a part of the base weights into the adapter, and a lower rank would cut it off: "
            "leave out lora_r_cut",
        )
    if init == "orthogonal" and job.get("lora_r", 0) % 2:
        yield "init_lora_weights", f"orthogonal needs an even lora_r, not {job['lora_r']}"


_ROUND = re.compile(r"[1-9][0-9]*")


def broken_cut_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule about cuts and devices that `job` breaks; see `broken_rules`."""
    for key in ("cuts", "devices"):
        if isinstance(job.get(key), list) and (problem := _length_problem(job, job[key])):
            yield key, problem

    method, devices = job.get("cut_policy.method"), job.get("devices")
    named = job.get("network.clients") is not None or job.get("network.clients_file") is not None
    measured = named  # over a network, what steps take is measured
    if method in ("resource", "makespan") and "devices" in job and devices is None and not measured:
        yield (
            "devices",
            f"cut_policy.method {method} goes by the clients' devices: set them, e.g. devices: laptop",
        )

    low, high = job.get("cut_policy.min_cut"), job.get("cut_policy.max_cut")
    if low is not None and high is not None and low > high:
        yield "cut_policy.min_cut", f"{low} is more than cut_policy.max_cut ({high})"
    if problem := _bound_problem(job, job.get("cuts", [])):
        yield "cuts", problem

    # Every client starts with weight 1.
    w_min, w_max = job.get("cut_policy.w_min", 1), job.get("cut_policy.w_max", 1)
    if w_min > 1:
        yield "cut_policy.w_min", f"must be at most 1, where every weight starts, not {w_min:g}"
    if w_max < 1:
        yield "cut_policy.w_max", f"must be at least 1, where every weight starts, not {w_max:g}"

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
        if problem := problem or _bound_problem(job, entry):
            yield f"round {round_}: {problem}"


def _length_problem(job: Mapping[str, Any], entries: list[Any]) -> str | None:
    """One entry per client. Natural sites are counted when the data are read: the run checks theirs."""
    clients, partition = job.get("clients"), job.get("partition.method")
    if clients is None or partition in (None, "by_column", "files") or len(entries) == clients:
        return None
    return f"needs one entry per client: clients is {clients}, the list has {len(entries)}"


def _bound_problem(job: Mapping[str, Any], cuts: int | list[int]) -> str | None:
    """The first cut of these that is outside the policy's bounds, unless these contradict each other."""
    low, high = job.get("cut_policy.min_cut") or 0, job.get("cut_policy.max_cut") or float("inf")
    for cut in cuts if isinstance(cuts, list) else [cuts]:
        if cut < low <= high:
            return f"{cut} is less than cut_policy.min_cut ({low})"
        if low <= high < cut:
            return f"{cut} is more than cut_policy.max_cut ({high})"
    return None

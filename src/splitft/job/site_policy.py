"""The policy of a site: its owner's word on a server's job, in a file of its own (`site.yaml`)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from splitft.common.text import plain
from splitft.errors import JobError, OutputError, PolicyError
from splitft.job.describe import describe_type
from splitft.job.nested import nested_models
from splitft.job.privacy import PrivacyMode
from splitft.job.problems import field_schemas, job_error, problem_lines
from splitft.job.redaction import RedactConfig, pattern_problems
from splitft.job.sections import Count, Name, Names, PathName, Strict, key
from splitft.job.settings import CostSettings
from splitft.job.yaml import dump_yaml, parse_yaml

SITE_FILE = "site.yaml"
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
LOOPBACK = ["127.0.0.1", "localhost", "::1"]
_MOST_BYTES = 1 << 20  # of a policy's file
_SHOWN = 300  # characters of a clause: names in it are the server's


class SitePolicy(Strict):
    """Limits of one client on every job; what it leaves open, the agreed job decides."""

    methods: Annotated[list[Literal["splitft", "same_split", "fed_lora"]], Field(min_length=1)] | None = key(
        None,
        "Methods that a job may have. [fed_lora]: only jobs that hold and train the whole model here, and "
        "send no activations. Default: all, but fed_lora only without max_cut.",
    )
    privacy: Annotated[list[PrivacyMode], Field(min_length=1)] | None = key(
        None,
        "Privacy modes that a job may state. [no_activations]: no job that sends activations, and none that "
        "leaves its mode open. Default: any job.",
    )
    labels: Annotated[list[Literal["client", "server"]], Field(min_length=1)] = key(
        ["client", "server"],
        "Places where labels may be. [client]: no job that sends the text to the server.",
    )
    min_cut: Count = key(1, "Fewest blocks of the front.")
    max_cut: Count | None = key(None, "Most blocks of the front.")
    max_tail_blocks: Annotated[int, Field(ge=0)] | None = key(None, "Most blocks of the tail.")
    max_lora_r: Count = key(64, "Highest rank of an adapter. Adapters of full rank can undo the front.")
    max_cancelled: float = key(
        0.25,
        "Largest share of a layer's weights that handed-out adapters may cancel (docs/site-policy.md): at 1 "
        "the layer computes nothing, and the server reads the text.",
        gt=0,
    )
    max_adapter_size: float = key(
        4.0,
        "Largest Frobenius norm of a layer's handed-out adapter, as a multiple of its weights' norm.",
        gt=0,
    )
    target_modules: Names | None = key(None, "Layers that may have an adapter, by the ends of their names.")
    columns: Names | None = key(
        None,
        "Columns that the job may name (dataset_text_field, document_column, partition.column). Rows of "
        "prompt and completion or of messages are read under these names.",
    )
    files: list[PathName] = key(
        [],
        "Files of this machine that a job may name with --job-data, as absolute patterns: "
        "[/data/study/*.jsonl]. --data needs none.",
    )
    datasets: Names | None = key(None, "Data sets that a job may name with --job-data.")
    max_epsilon: float | None = key(
        None,
        "Largest dp.epsilon of a job; with it jobs without dp.epsilon are refused, among them all that send "
        "activations.",
        gt=0,
    )
    max_rounds: Count | None = key(None, "Most rounds.")
    max_local_steps: Count | None = key(None, "Most optimizer steps of a round.")
    max_evaluations: Count | None = key(None, "Most evaluations of a run.")
    max_repeats: Count = key(
        30, "How often a round may be trained or evaluated again after a break, while the client runs."
    )
    max_mb_per_round: float | None = key(
        None, "Most megabytes that go up in a round, its evaluation included.", gt=0
    )
    max_memory_gb: float | None = key(
        None, "Most memory of weights and adapters, in GB (10^9 bytes), held by this client.", gt=0
    )
    max_disk_gb: float | None = key(None, "Most disk space of the client's folder, in GB.", gt=0)
    models: dict[Name, list[Digest]] | None = key(
        None,
        "{name: [SHA-256]} of base models that may be loaded: digests of their .safetensors files, as "
        "sha256sum prints them and the hub shows them; an empty list takes any.",
    )
    codecs: Names | None = key(None, "Codecs that may be used.")
    aggregator_hosts: Names | None = key(
        None, "Hosts of aggregators that the client may dial. Default: the server's host alone."
    )
    min_clients_in_sum: Annotated[int, Field(ge=3)] | None = key(
        None,
        "Adapters leave only masked, for sums over so many clients at least: jobs without secure_aggregation "
        "are refused, and so is every smaller sum. Default: as the job says.",
    )
    redact: RedactConfig = Field(
        default_factory=RedactConfig,
        description="The parts of this site's rows that are redacted before anything is computed with them "
        "(docs/redaction.md); no job can say it.",
    )
    attention: list[Attention] = key(
        ["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"],
        "Attention implementations that a job may name: of this list, never a kernel of a hub.",
    )


def load_policy(path: Path | None, folder: Path) -> SitePolicy:
    """Read a policy; None: `site.yaml` in the client's folder, or the defaults where there is none.

    Raises JobError with one line for every problem.
    """
    path = path or (folder / SITE_FILE if (folder / SITE_FILE).exists() else None)
    if path is None:
        return SitePolicy()
    try:
        with path.open(encoding="utf-8-sig") as file:
            values, problems = parse_yaml(file.read(_MOST_BYTES))
    except (OSError, ValueError) as error:
        raise JobError(f"--policy {path} cannot be read: {getattr(error, 'strerror', error)}") from None
    try:
        policy = SitePolicy.model_validate({} if values is None else values)
    except ValidationError as error:
        raise job_error(str(path), problems + problem_lines(error, SitePolicy)) from None
    problems += [f"redact.patterns: {problem}" for problem in pattern_problems(policy.redact.patterns)]
    if problems:
        raise job_error(str(path), problems)
    return policy


def write_policy(path: Path) -> Path:
    """Write a policy of the defaults, every key with its description. Raises OutputError where it cannot."""
    path = path / SITE_FILE if path.is_dir() else path
    lines = [
        "# The policy of a site (splitft client --policy FILE): limits on whatever job a server sends.\n"
    ]
    schemas = field_schemas(SitePolicy)
    groups = nested_models(SitePolicy)
    for name, field in SitePolicy.model_fields.items():
        described = f"\n# {field.description}\n# {describe_type(schemas[name])}\n"
        if name not in groups:
            lines.append(described + dump_yaml({name: field.default}))
            continue
        lines.append(f"{described}{name}:\n")
        for key_, inner in groups[name].model_fields.items():
            text = f"  # {inner.description}\n  # {describe_type(schemas[f'{name}.{key_}'])}\n"
            lines.append(f"{text}  {dump_yaml({key_: inner.default})}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write("".join(lines))
    except FileExistsError:
        raise OutputError(f"{path} is there already; name another: splitft new site PATH") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}; name another") from None
    return path


def check_policy(
    policy: SitePolicy, job: CostSettings, aggregator: str | None, server: str, *, job_data: bool
) -> None:
    """Raise PolicyError, with one clause for each key, where a job asks for more than a policy allows.

    aggregator, server: HOST:PORT of the job's aggregator, and of the server that the client dials.
    job_data: the client takes its share of the job's data set.
    """
    problems = [*_limit_problems(policy, job), *_name_problems(policy, job), *_sum_problems(policy, job)]
    own = _host(server)
    hosts = policy.aggregator_hosts or (LOOPBACK if own in LOOPBACK else [own])
    if aggregator and _host(aggregator) not in hosts:
        problems.append(f"network.aggregator {aggregator}, allowed hosts {', '.join(hosts)}")
    if job_data:
        problems += _data_problems(policy, job)
    if problems:
        told = "; ".join(plain(problem, _SHOWN) for problem in problems)
        raise PolicyError(f"the site's policy refuses the server's job: {told}")


def _limit_problems(policy: SitePolicy, job: CostSettings) -> list[str]:
    """Return a clause for each number of a job beyond the policy's."""
    evaluations = job.rounds // job.eval_every + 2
    limits = (
        ("rounds", job.rounds, "max_rounds", policy.max_rounds),
        ("local_steps", job.local_steps, "max_local_steps", policy.max_local_steps),
        ("evaluations", evaluations, "max_evaluations", policy.max_evaluations),
        ("lora_r", job.lora_r, "max_lora_r", policy.max_lora_r),
    )
    problems = [f"{name} {value}, {key} {most}" for name, value, key, most in limits if most and value > most]
    epsilon, most_epsilon = job.dp.epsilon, policy.max_epsilon
    if most_epsilon is not None and (epsilon is None or epsilon > most_epsilon):
        stated = "no dp.epsilon" if epsilon is None else f"dp.epsilon {epsilon:g}"
        problems.append(f"{stated}, max_epsilon {most_epsilon:g}")
    return problems + (_part_problems(policy, job) if job.splits_model else _whole_problems(policy))


def _sum_problems(policy: SitePolicy, job: CostSettings) -> list[str]:
    """Return a clause where a job does not mask adapters, and a policy wants that."""
    if policy.min_clients_in_sum is None or job.secure_aggregation:
        return []
    return [f"secure_aggregation false, min_clients_in_sum {policy.min_clients_in_sum}"]


def _part_problems(policy: SitePolicy, job: CostSettings) -> list[str]:
    """Return a clause for each limit on the part of the model here that a job does not keep."""
    stated, tail, problems = job.cuts if isinstance(job.cuts, list) else [job.cuts], job.num_tail_blocks, []
    if policy.max_tail_blocks is not None and tail > policy.max_tail_blocks:
        problems.append(f"tail_blocks {tail}, max_tail_blocks {policy.max_tail_blocks}")
    if policy.max_cut is not None and min(stated) > policy.max_cut:
        problems.append(f"cuts {min(stated)}, max_cut {policy.max_cut}")
    if max(stated) < policy.min_cut:
        problems.append(f"cuts {max(stated)}, min_cut {policy.min_cut}")
    return problems


def _whole_problems(policy: SitePolicy) -> list[str]:
    """Return a clause where a policy does not let a job hold the whole model here."""
    if policy.methods is None and policy.max_cut is not None:
        return [f"the whole model is held here, max_cut {policy.max_cut} (methods: [fed_lora] allows it)"]
    return []


def _name_problems(policy: SitePolicy, job: CostSettings) -> list[str]:
    """Return a clause for each name in a job that the policy does not list."""
    problems = []
    if policy.methods is not None and job.method not in policy.methods:
        problems.append(f"method {job.method}, allowed {', '.join(policy.methods)}")
    if job.redact.active:
        problems.append("redact, which is this site's own to say, in its policy")
    if policy.privacy is not None and job.privacy not in policy.privacy:
        problems.append(f"privacy {job.privacy or 'not stated'}, allowed {', '.join(policy.privacy)}")
    if job.splits_model and job.labels not in policy.labels:  # else no label leaves
        problems.append(f"labels {job.labels}, allowed {', '.join(policy.labels)}")
    if job.attn_implementation is not None and job.attn_implementation not in policy.attention:
        problems.append(
            f"attn_implementation {job.attn_implementation}, allowed {', '.join(policy.attention)}"
        )
    if policy.models is not None and job.model_name_or_path not in policy.models:
        problems.append(f"model_name_or_path {job.model_name_or_path}, allowed {', '.join(policy.models)}")
    codecs = {job.codec, job.gradient_codec, job.eval_codec} - {None} if job.splits_model else set()
    columns = {job.dataset_text_field, job.document_column, job.partition.column} - {None}
    for what, named, allowed in (("codec", codecs, policy.codecs), ("column", columns, policy.columns)):
        if allowed is not None and (foreign := sorted(map(str, named - set(allowed)))):
            problems.append(f"{what} {', '.join(foreign)}, allowed {', '.join(allowed)}")
    return problems


def _data_problems(policy: SitePolicy, job: CostSettings) -> list[str]:
    """Return a clause for each file or data set of a job that --job-data may not read."""
    problems = []
    for files in (job.data_files, job.eval_files):
        listed = (
            list(files.values()) if isinstance(files, dict) else [files] if isinstance(files, str) else files
        )
        for file in listed or ():
            if not may_read(policy, file):
                problems.append(f"file {file}, allowed {', '.join(policy.files) or 'none'} (files)")
    name = job.dataset_name
    if name is not None and Path(name).expanduser().exists() and not may_read(policy, name):
        problems.append(f"dataset_name {name}: a folder of this machine, and files does not list it")
    elif name is not None and policy.datasets is not None and name not in policy.datasets:
        problems.append(f"dataset_name {name}, allowed {', '.join(policy.datasets)}")
    return problems


def may_read(policy: SitePolicy, name: str) -> bool:
    """Whether a policy lists a file that a job names; a pattern is taken as it is written.

    Links and `..` are followed first, so that a name below a listed folder does not lead out of it.
    """
    real = str(Path(name).expanduser().resolve())
    return any(fnmatchcase(real, str(Path(pattern).expanduser().absolute())) for pattern in policy.files)


def may_adapt(policy: SitePolicy, targets: list[str]) -> list[str]:
    """Return those of a job's layers that a policy does not list."""
    allowed = policy.target_modules
    if allowed is None:
        return []
    return [name for name in targets if not any(name == one or name.endswith(f".{one}") for one in allowed)]


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")

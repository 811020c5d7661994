"""Write docs/reference.md from the job's fields, the records of a run, presets and exit codes.

Run it after changing one of them: python docs/make_reference.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from splitft.devices.presets import PRESETS
from splitft.devices.profile import resolve_device
from splitft.history import ClientRecord, RoundRecord
from splitft.job import Job, grouped_keys, sections
from splitft.job.describe import describe_type
from splitft.job.nested import nested_models
from splitft.job.problems import field_schemas
from splitft.job.recipes import recipes
from splitft.job.site_policy import SitePolicy
from splitft.launch.cli import EXIT_CODES

PAGE = Path(__file__).with_name("reference.md")

INTRODUCTION = """\
<!-- Written by docs/make_reference.py, most of it from src/splitft/job; change that, then run it again. -->
# Reference

## Commands

| Command | What it does |
|---|---|
| `splitft demo [KEY=VALUE]...` | Runs the recipe `quickstart` in a free folder; fetches the built-in model. |
| `splitft new [RECIPE] [PATH]` | Lists the recipes, or copies one; never overwrites a file. |
| `splitft new site [PATH]` | Writes a client's policy, every key with its meaning ([how](site-policy.md)). |
| `splitft run JOB [KEY=VALUE]...` | Runs a job file or a recipe, with keys of the job set anew. |
| `splitft plan JOB [KEY=VALUE]... [--out FOLDER]` | Predicts memory, bytes and time, without training. |
| `splitft plan JOB --codecs` | Also tries every codec on one batch, with the weights. |
| `splitft audit JOB [KEY=VALUE]... [--rows N] [--longest] [--run FOLDER] [--public FILE] [--out FOLDER] \
[--fail-above X]` | Attacks the messages of the job's first local step, and what a run left, as a server \
could; prints how much is read ([how](audit.md)). |
| `splitft compare JOB [KEY=VALUE]... --methods A,B --seeds N` | Runs methods, cut policies or \
algorithms over seeds; writes a table and a report. Resumable. |
| `splitft compare JOB --vary 'KEY=[V1,V2]' --parallel N` | The same over values of a key; N runs at a time. |
| `splitft report RUN... [--out FILE] [--title TEXT] [--reference NAME] [--paper] [--audit-samples]` | Makes \
one HTML page of runs; it needs no network. `--paper`: also a LaTeX table and the figures. |
| `splitft run JOB --readable N`, `splitft client … --readable N` | Also reads every N rounds how much \
of the text the activations tell; a client, of its own rows, for its owner alone \
([how](audit.md#while-a-run-trains)). |
| `splitft run JOB --live`, `splitft server JOB --live` | Also shows the run in a browser \
([how](how-to.md#watch-a-run)). |
| `splitft server`, `splitft client`, `splitft aggregator` … `[--log-format text\|json] [--log-file FILE]` | \
Write a log, a line for each event ([how](operations.md#logs)). |
| `splitft operator status\|drop\|admit\|pause\|resume\|deadline RUN …` | Looks after a run while its server \
is at work ([how](operations.md#the-operator)). |
| `splitft watch RUN... [--listen HOST:PORT] [--token] [--host NAME]` | Shows runs in a browser, while they \
train or afterwards; until Ctrl-C. |
| `splitft check MODEL [--cuts 1,2,8]` | Proves that a split model computes what the whole one does. |
| `splitft check --all-architectures` | The same for every causal and vision-language type of transformers. |
| `splitft export RUN [OUT] [--merge]` | Writes a run's adapter in PEFT's format, or merged. |
| `splitft evaluate RUN --tasks A,B [--include-path DIR]` | Scores base and adapter on tasks of lm-eval \
([how](evaluation.md)). |
| `splitft evaluate RUN --generate` | Has both continue held-out prompts: exact match, ROUGE and \
BLEU of each client. |
| `splitft certs init`, `add`, `request`, `sign`, `install`, `renew`, `revoke`, `show`, `token` | \
Certificates and tokens of a network run ([how](certificates.md)). |
| `splitft schema` | Prints the JSON schema of a job file. |
| `splitft --version` | Prints the version. |

## Python

The commands as functions of `splitft`: they print what the shell prints, and raise the errors whose exit
codes it ends with ([examples](how-to.md#from-python)).

| Function | Returns |
|---|---|
| `Job(KEY=VALUE, ...)` | A job: a frozen pydantic model. A mistake is a `JobError` in the shell's words. |
| `run(JOB, resume=False, **keys)` | `RunResult`: `output_dir`, `adapter_path`, `history`, `summary`. |
| `plan(JOB, codecs=False, out=None, **keys)` | The tables as plain values, as in plan.json. |
| `compare(JOB, methods=[...], vary={KEY: [V1, V2]}, seeds=1, out=None, parallel=1, **keys)` | `Comparison`: \
`folder`, `runs`, `failed`, `results`, `report`, `exit_code`. |
| `report(RUNS, out=None, title=None, reference=None, paper=False)` | The page's path. \
`RUNS`: folders or `RunResult`s, one or several. |
| `export(RUN, out=None, merge=False)` | The folder written. |
| `check(MODEL or JOB, cuts=None, **keys)` | `SplitReport` of a model, `JobReport` of a job. |

`JOB` is a `Job`, a dict of keys, a job file or a recipe's name. `**keys` change keys of it: `rounds=2`,
`partition={...}` for a whole group, `**{"partition.alpha": 0.1}` for one key of it. `console=` takes a rich
`Console`; `Console(quiet=True)` prints nothing.
"""

RUN_FOLDER = """\
## The run's folder

| File | What it holds |
|---|---|
| `job.yaml` | The effective job. |
| `history.jsonl` | One line a round; round 0 is the evaluation before training. |
| `decisions.jsonl` | One line a decision of the cut policy: what it saw, its targets, the cuts, and why. \
Not with `fixed`. |
| `summary.json` | Before and after, totals, parameters, versions, over a network also those of clients \
(`client_versions`); `self_reported`: keys of figures that clients state, and nobody can check; \
`adapter_changed`; `diverged`: what was \
not finite, or null. |
| `live.json` | How the run stands, at most a second old: phase, round, each client's last step with its \
loss, rate and bytes, bytes by kind, seconds left, who is waited for, the last notices, and how it ended. \
For `splitft watch`; a run needs it for nothing. |
| `partition.json`, `partition.png` | Who holds which rows. |
| `perplexity.png` | Perplexity over the rounds and, where they moved, the cuts. |
| `evaluation.json`, `evaluation-2.json`, … | Results of `splitft evaluate`. |
| `trackers.json`, `tensorboard/` | Ids of the run in trackers, and TensorBoard's files (`report_to`). |
| `adapter/` | The global adapter in PEFT's format, with a model card and the tokenizer. |
| `adapters/CLIENT/` | In its place with `method: local_only`: every client's own. |
| `checkpoints/` | The state after the last round, from which `--resume` goes on or extends the run. None \
with `save_every: 0`. |
| `operator.sock`, `orders.jsonl` | While a server is at work here: the socket of `splitft operator`; the \
drops and admissions that it has followed. |
| `.lock` | While a run is at work here: its process and its host. |

History, decisions, summary and adapters are written after every round; an interrupted run keeps those of its
last whole round, and one that diverged (exit code 7) those of its last finite one. Numbers that JSON does not
have are null.
"""

_BYTES = "Bytes of this round"
HISTORY = {
    "round": "0: the evaluation before training.",
    "cohort": "Clients that trained.",
    "cuts": "`{client: cut}` in this round; null for methods without cuts.",
    "loss": "Mean over the training tokens; null in round 0.",
    "perplexity": "Over all held-out tokens, estimated where a sample was evaluated; null where this round "
    "was not evaluated, as the two below.",
    "accuracy": "Share of next tokens predicted right.",
    "paper_accuracy": "The paper's figure: the prediction for position t + 1 compared with token t.",
    "clients": "`{client: figures}`, see below.",
    "train_tokens": "Tokens with loss that were trained on in this round; with dp, the rows that steps draw "
    "on average.",
    "bytes_up": f"{_BYTES} from clients to the server, of every kind, evaluation included.",
    "bytes_down": f"{_BYTES} from the server to clients.",
    "bytes_adapter_up": "The part of them that is adapters.",
    "bytes_adapter_down": "The same.",
    "bytes": "`{direction: {kind: bytes}}`. Kinds: activations, gradients, labels, adapter, optimizer (state "
    "that moves with a block, changes of basis), evaluation (all that is sent to evaluate, but adapters), "
    "held_out (ids of the rows that the server evaluates by itself, sent once), control "
    "(headers, gradient norms).",
    "round_seconds": "Of training and averaging, on this machine.",
    "evaluation_seconds": "Of the evaluation, on this machine.",
    "virtual_seconds": "Of training, by the virtual clock; null without devices.",
    "waited_for": "The client that was done last, by the virtual clock.",
    "queued_behind": "`{client: {other: seconds}}` that a client waited for another's work or arrival; empty "
    "for large cohorts.",
    "truncation_error": "`{block: error}`, of blocks that some client or trunk holds at a lower rank: the "
    "relative error of the product B·A at that rank.",
    "eval_rows": "Held-out rows that were evaluated: a sample, at the end all.",
    "held_out_rows": "Held-out rows of the clients that were evaluated.",
    "perplexity_interval": "Half-width of the 95 % interval of the perplexity of all these rows; 0 where all "
    "were evaluated.",
    "perplexity_change": "Since the first evaluation, on the rows of both: -0.1 is a tenth less.",
    "change_interval": "Half-width of its 95 % interval.",
    "accuracy_change": "The same of the accuracy, in shares of tokens.",
    "metrics": "{name: mean over held-out tokens} of the job's `metrics`.",
    "epsilon": "Of the client with the largest one, up to this round; null without differential privacy.",
    "readable": "With `--readable`: `{client: {tokens, rare, guess, n}}`, shares of its tokens and rare "
    "tokens that an inverter names and of those that the model guesses, and the tokens; else absent.",
}
CLIENTS = {
    "cut": "Blocks on the client; null for methods without cuts.",
    "loss": "Mean over its training tokens.",
    "perplexity": "On its own held-out rows, as the two below.",
    "accuracy": "Share of next tokens predicted right.",
    "paper_accuracy": "The paper's figure.",
    "train_tokens": "Tokens with loss in this round.",
    "eval_tokens": "Held-out tokens.",
    "virtual": "Virtual seconds: compute, transfer, server (working for this client), queued (the server "
    "working for others) and idle sum to the round's; finished: when its adapter had arrived.",
    "perplexity_change": "Since its first evaluation, on the rows of both.",
    "metrics": "{name: mean over its held-out tokens} of the job's `metrics`.",
    "private_steps": "Steps with differential privacy up to this round; null without it.",
    "epsilon": "Of all of them, at the client's delta; null without differential privacy.",
}

JOB_FILE = """\
## The job file

A job is one YAML mapping. Only `model_name_or_path` and one of `dataset_name` and `data_files` must be given.
Paths are relative to the folder in which `splitft` runs.

- Values are taken strictly: `"5"` is no integer and `1` is not `true`; an integer may stand for a number.
  Numbers may be written `2e-4`. `yes`, `no`, `on` and `off` are plain strings.
- A key given twice, an unknown key, a tag (`!!python/...`) or an alias is an error. All errors are told at
  once, each with its key.
- An override is `KEY=VALUE` with the value in YAML; a dot goes down a level. Quote it where the shell needs
  it: `rounds=2`, `partition.alpha=0.1`, `'cuts=[1, 2, 3]'`, `'data_files={north: n.txt, south: s.txt}'`.
  `KEY=null` unsets a key that may be null.
- The effective job, overrides and defaults included, is written into the run's folder.
"""

ADVANCED = """\
### Advanced

Keys that few jobs need: limits, constants of a method, and what a run chooses by itself.
"""

SITE = """\
## The site policy

A file of a client's owner, `site.yaml` in its folder or `--policy FILE`: limits on whatever job a server
sends
([site policy](site-policy.md)). `splitft new site` writes one.
"""

PRESETS_NOTE = """\
Stated assumptions about a class of machine, not measurements. FLOP/s are what training sustains; latency is
one way.
"""

RULES = """\
## Rules across keys

- Exactly one of `dataset_name` and `data_files`.
- `data_files` as a mapping means `partition.method: files`; another method beside it is an error.
- `eval_files` or `dataset_test_split`, not both; `dataset_test_split` needs a `dataset_name` of a hub, and
  another split than `dataset_split`. Names in `eval_files: {client: file}` are those of clients.
- `packing` leaves no long rows for `truncation_mode: chunk`.
- `clients`, where it is stated, is the number of files with `partition.method: files`.
- `partition.method: files` needs `data_files`; `by_column` and `dirichlet` need `partition.column`.
- A list of `cuts`, of `devices` or in `cut_policy.schedule` has one entry per client. For `files` and
  `by_column` the run checks this with the data.
- `clients_per_round` ≤ `clients`; `lora_r_cut` ≤ `lora_r`; `warmup_steps` ≤ `rounds` × `local_steps`.
- `max_steps` is a multiple of `local_steps`, and states `rounds`; `num_train_epochs` states them once the
  data are read. Either has its way over `rounds`; both together are an error. Over a network
  `num_train_epochs` is refused, since the rows are the clients'.
- `tail_blocks`, where it is stated, is 1 or more with `labels: client` and 0 with `labels: server`.
- `lr_scheduler_type: constant` takes no warm-up.
- `cut_policy.min_cut` ≤ `cut_policy.max_cut`, with `cuts` and every entry of the schedule between them.
- `cut_policy.w_min` ≤ 1 ≤ `cut_policy.w_max`: 1 is the weight that every client starts with.
- `cut_policy.method: schedule` needs `cut_policy.schedule`, which no other method takes; its keys are the
  numbers of rounds.
- `cut_policy.method: resource` and `makespan` need `devices`.
- `devices` and `server_device` name presets or keys of `device_profiles`.
- A comparison checks every variant's job before it starts the first; `seed` and `output_dir` are set by it.
- `privacy: no_activations` needs `method: fed_lora` (or `local_only`), `sum_only` also `secure_aggregation`;
  `not_stored` refuses `codec: delta` and `num_sample_continuations`. A job over a network states `privacy`,
  and has no `redact`, which is each site's own.
"""


def reference() -> str:
    """The whole page."""
    schemas = field_schemas(Job)
    parts = [INTRODUCTION, "## Recipes\n", _table(("Recipe", "What it is"), _recipe_rows())]
    parts += ["## Exit codes\n", _table(("Code", "Meaning"), [[str(c), m] for c, m in EXIT_CODES.items()])]
    parts.append(JOB_FILE)
    columns = ("Key", "Type", "Default", "Description")
    advanced: list[str] = []
    for heading, keys in _headings().items():
        advanced += [key for key in keys if _is_advanced(key)]
        rows = [_key_row(key, schemas) for key in keys if not _is_advanced(key)]
        parts += [f"### {heading}\n", _table(columns, rows)]
    parts += [ADVANCED, _table(columns, [_key_row(key, schemas) for key in advanced])]
    parts += [SITE, _table(columns, _policy_rows())]
    columns = ("Preset", "TFLOP/s", "Memory, GB", "Up, Mbit/s", "Down, Mbit/s", "Latency, ms")
    parts += ["## Device presets\n", PRESETS_NOTE, _table(columns, _preset_rows())]
    parts += [RULES, RUN_FOLDER, "### History\n"]
    parts.append(_table(("Field", "Meaning"), _field_rows(RoundRecord, HISTORY)))
    parts += ["Each client:\n", _table(("Field", "Meaning"), _field_rows(ClientRecord, CLIENTS))]
    return "\n".join(parts)


def _field_rows(record: type, described: Mapping[str, str]) -> list[list[str]]:
    names = [field.name for field in fields(record)]
    if names != list(described):
        raise ValueError(f"{record.__name__} has the fields {', '.join(names)}: describe them here, in order")
    return [[f"`{name}`", described[name]] for name in names]


def _preset_rows() -> list[list[str]]:
    return [
        [f"`{name}`", *(f"{value:g}" for value in (
            device.flops / 1e12, device.memory_bytes / 1e9, device.uplink_bytes_per_second * 8 / 1e6,
            device.downlink_bytes_per_second * 8 / 1e6, device.latency_seconds * 1e3,
        ))]
        for name, device in ((name, resolve_device(name, {})) for name in PRESETS)
    ]  # fmt: skip


def _policy_rows() -> list[list[str]]:
    schemas, rows = field_schemas(SitePolicy), []
    groups = nested_models(SitePolicy)
    for key, field in SitePolicy.model_fields.items():
        if key not in groups:
            default = json.dumps(field.default)
            rows.append([f"`{key}`", describe_type(schemas[key]), f"`{default}`", field.description or ""])
            continue
        rows.append([f"`{key}`", describe_type(schemas[key]), "see below", field.description or ""])
        for name, inner in groups[key].model_fields.items():
            kind, default = describe_type(schemas[f"{key}.{name}"]), json.dumps(inner.default)
            rows.append([f"`{key}.{name}`", kind, f"`{default}`", inner.description or ""])
    return rows


def _recipe_rows() -> list[list[str]]:
    return [[f"`{name}`", description] for name, description in recipes().items()]


def _headings() -> dict[str, list[str]]:
    """Return the keys of every table; a group of keys has its own after the table in which it is named."""
    found = {}
    for heading, keys in grouped_keys().items():
        found[heading] = keys
        for group, model in nested_models(Job).items():
            if group.split(".")[0] in keys:
                found[_heading(group)] = [f"{group}.{key}" for key in model.model_fields]
    return found


def _field(key: str) -> FieldInfo:
    group, _, name = key.rpartition(".")
    return (nested_models(Job)[group] if group else Job).model_fields[name]


def _is_advanced(key: str) -> bool:
    return _field(key).json_schema_extra == sections.ADVANCED


def _key_row(key: str, schemas: dict[str, dict[str, Any]]) -> list[str]:
    field = _field(key)
    if field.is_required():
        default = "required"
    elif key in nested_models(Job):
        default = f"see {_heading(key)}"
    elif field.default_factory is not None:
        default = f"`{json.dumps(field.get_default(call_default_factory=True))}`"
    else:
        default = (
            f"`{json.dumps(field.default)}`" if not isinstance(field.default, str) else f"`{field.default}`"
        )
    return [f"`{key}`", describe_type(schemas[key]), default, field.description or ""]


def _heading(group: str) -> str:
    """The heading of a group's table: `device_profiles.NAME` is one Device profile."""
    outer, _, name = group.partition(".")
    return (outer.removesuffix("s") if name else outer).replace("_", " ").capitalize()


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8", newline="\n")

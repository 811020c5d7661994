"""Write docs/reference.md from the job's fields and the command line's exit codes.

Run it after changing either: python docs/make_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from splitft.cli import EXIT_CODES
from splitft.job import Job, grouped_keys
from splitft.job.describe import describe_type
from splitft.job.nested import nested_models
from splitft.job.problems import field_schemas
from splitft.recipes import recipes

PAGE = Path(__file__).with_name("reference.md")

INTRODUCTION = """\
<!-- Written by docs/make_reference.py from src/splitft/job/model.py; change that, then run it again. -->
# Reference

## Commands

| Command | What it does |
|---|---|
| `splitft new [RECIPE] [PATH]` | Lists the recipes, or copies one; never overwrites a file. |
| `splitft run JOB [KEY=VALUE]...` | Runs a job file or a recipe, with keys of the job set anew. |
| `splitft check MODEL [--cuts 1,2,8]` | Proves that a split model computes what the whole one does. |
| `splitft check --all-architectures` | The same for every causal-LM type of the installed transformers. |
| `splitft export RUN [OUT] [--merge]` | Writes a run's adapter in PEFT's format, or merged. |
| `splitft schema` | Prints the JSON schema of a job file. |
| `splitft --version` | Prints the version. |
"""

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

RULES = """\
## Rules across keys

- Exactly one of `dataset_name` and `data_files`.
- `data_files` as a mapping means `partition.method: files`; another method beside it is an error.
- `partition.method: files` needs `data_files`; `by_column` and `dirichlet` need `partition.column`.
- A list of `cuts`, of `devices` or in `cut_policy.schedule` has one entry per client. For `files` and
  `by_column` the run checks this with the data.
- `clients_per_round` ≤ `clients`; `lora_r_cut` ≤ `lora_r`; `warmup_steps` ≤ `rounds` × `local_steps`.
- `labels: client` needs `tail_blocks` ≥ 1; `labels: server` needs `tail_blocks: 0`.
- `lr_scheduler_type: constant` takes no warm-up.
- `cut_policy.min_cut` ≤ `cut_policy.max_cut`, with `cuts` and every entry of the schedule between them.
- `cut_policy.w_min` ≤ 1 ≤ `cut_policy.w_max`: 1 is the weight that every client starts with.
- `cut_policy.method: schedule` needs `cut_policy.schedule`, which no other method takes; its keys are the
  numbers of rounds.
- `cut_policy.method: resource` and `makespan` need `devices`.
"""


def reference() -> str:
    """The whole page."""
    schemas = field_schemas()
    parts = [INTRODUCTION, "## Recipes\n", _table(("Recipe", "What it is"), _recipe_rows())]
    parts += ["## Exit codes\n", _table(("Code", "Meaning"), [[str(c), m] for c, m in EXIT_CODES.items()])]
    parts.append(JOB_FILE)
    columns = ("Key", "Type", "Default", "Description")
    for heading, keys in grouped_keys().items():
        parts += [f"### {heading}\n", _table(columns, [_key_row(key, schemas) for key in keys])]
        for group, model in nested_models(Job).items():
            if group.split(".")[0] in keys:
                rows = [_key_row(f"{group}.{key}", schemas) for key in model.model_fields]
                parts += [f"### {_heading(group)}\n", _table(columns, rows)]
    return "\n".join([*parts, RULES])


def _recipe_rows() -> list[list[str]]:
    return [[f"`{name}`", description] for name, description in recipes().items()]


def _key_row(key: str, schemas: dict[str, dict[str, Any]]) -> list[str]:
    groups = nested_models(Job)
    group, _, name = key.rpartition(".")
    field = (groups[group] if group else Job).model_fields[name]
    if field.is_required():
        default = "required"
    elif key in groups:
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

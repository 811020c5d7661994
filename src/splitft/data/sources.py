"""The tables that a job names: data files, a data set of the hub, or the built-in corpus."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from splitft.common.quiet import quiet_datasets
from splitft.common.text import one_line
from splitft.data.columns import COLUMNS
from splitft.data.formats import FOREIGN_COLUMNS
from splitft.data.partition.sites import client_names
from splitft.data.table import Table, exists, read_table, table_of
from splitft.errors import DataError
from splitft.job.data import GIVEN_EVAL, GIVEN_TRAIN, DataSettings
from splitft.weights.builtin import builtin_corpus
from splitft.weights.random_models import BUILTIN

COMMIT = re.compile("[0-9a-f]{40}")

Sources = dict[str, list[Table]]  # by name: one data file, or all files that belong to one named client


def read_sources(job: DataSettings) -> Sources:
    """Read everything that `dataset_name` or `data_files` names. Raises DataError where that fails."""
    if job.data_files is not None:
        return _read_files(job, job.data_files)
    if job.dataset_name is None:
        raise DataError("no data: set dataset_name (for example builtin:sotu) or data_files")
    if job.dataset_name.startswith(BUILTIN):
        records = builtin_corpus(job.dataset_name)
        columns = {name: [record[name] for record in records] for name in records[0]}
        numbers = list(range(1, len(records) + 1))
        return {"data": [Table(job.dataset_name, columns, numbers, "paragraph")]}
    return {"data": [_read_hub(job, job.dataset_name, job.dataset_split)]}


def read_eval_sources(job: DataSettings) -> Sources:
    """Read the evaluation set that a job names. Raises DataError where that fails."""
    if job.eval_files is not None:
        return _read_files(job, job.eval_files)
    return {"data": [_read_hub(job, str(job.dataset_name), str(job.dataset_test_split))]}


def wanted_columns(job: DataSettings) -> set[str]:
    """Every column that the job may read."""
    named = {job.dataset_text_field, job.document_column, job.partition.column, job.redact.spans_column}
    return {name for name in named if name is not None}.union(FOREIGN_COLUMNS, *COLUMNS.values())


def _read_files(job: DataSettings, files: str | list[str] | dict[str, str]) -> Sources:
    def read(paths: Iterable[Path]) -> list[Table]:
        return [
            read_table(path, job.dataset_text_field, job.sample_by, wanted_columns(job)) for path in paths
        ]

    if isinstance(files, dict):
        return {name: read(find_files(pattern)) for name, pattern in files.items()}
    patterns = [files] if isinstance(files, str) else files
    paths = list(dict.fromkeys(path for pattern in patterns for path in find_files(pattern)))
    return {name: read([path]) for name, path in zip(source_names(paths), paths, strict=True)}


def find_files(pattern: str) -> list[Path]:
    """The file of that name, or all files that the pattern matches, in sorted order.

    Raises DataError for a URL, for rows that were objects, and for a pattern that matches nothing.
    """
    if pattern in (GIVEN_TRAIN, GIVEN_EVAL):
        argument = pattern.removeprefix("object:")
        raise DataError(
            f"the rows of {argument} were objects from Python, which are not kept: write them to a file "
            f"(Dataset.to_json) and name it in the place of {pattern} in job.yaml, or give them to run again"
        )
    if "://" in pattern:
        raise DataError(f"{pattern}: a job takes local files; download it, or name a hub data set instead")
    path = Path(pattern).expanduser()
    if exists(path) or not glob.has_magic(pattern):
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207
    if not found:
        raise DataError(f"{pattern}: no file matches this pattern (relative paths start at {Path.cwd()})")
    return found


def source_names(paths: list[Path]) -> tuple[str, ...]:
    """Client names from file names; with the folder's name before them where two files have one name."""
    times = Counter(path.stem for path in paths)
    stems = [path.stem if times[path.stem] == 1 else f"{path.parent.name}-{path.stem}" for path in paths]
    return client_names(stems)


def _read_hub(job: DataSettings, name: str, split: str) -> Table:
    import datasets

    from splitft.weights.hub import hub_or_cache

    local, wanted = exists(Path(name)), job.dataset_revision
    if local and wanted != "main":
        raise DataError(f"{name} is a folder here, and has no revisions: leave out dataset_revision={wanted}")
    revision, told = (None, "") if local else (wanted, f", revision {wanted!r}")
    with quiet_datasets():
        try:
            with nullcontext() if local else hub_or_cache(name, wanted, kind="dataset"):
                data = datasets.load_dataset(name, job.dataset_config_name, split=split, revision=revision)
        except Exception as error:  # the hub client, datasets and pyarrow each raise their own
            raise DataError(
                f"data set {name!r}, configuration {job.dataset_config_name!r}, split {split!r}{told} "
                f"cannot be loaded: {one_line(error)}; check these names and the network, "
                "or give local files as data_files"
            ) from error
        table = table_of(name, data, wanted_columns(job))
    return table if local else _pinned(table, wanted, _commit_of(data))


def _pinned(table: Table, wanted: str, commit: str) -> Table:
    """Return the rows of a hub data set, with a note of their commit where the job names none.

    wanted: the job's revision. Raises DataError where the cache had other rows than those of a named commit:
    without the hub, `datasets` takes whatever it has.
    """
    if commit in ("", wanted):
        return table
    if COMMIT.fullmatch(wanted):
        raise DataError(
            f"the hub's cache has {table.name} at commit {commit}, not at dataset_revision {wanted}: connect "
            "to the hub once, or name that commit"
        )
    pin = f"dataset_revision={commit} reads these rows always"
    return replace(table, note=f"{table.name}: revision {wanted} is commit {commit}; {pin}")


def _commit_of(data: Any) -> str:
    """Return the commit at which `datasets` read a data set, as its cache names it; empty where unknown."""
    folders = {Path(file["filename"]).parent.name for file in data.cache_files}
    return next((name for name in folders if COMMIT.fullmatch(name)), "")

"""The job that a server tells: read, held to a site's policy, shown to its owner and agreed to."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
from collections.abc import Sequence
from functools import cache
from typing import Any

from rich.console import Console

from fuzz.inputs import UnclearError
from fuzz.jobs import MODES, QUIET, data, folder
from fuzz.mutations import FLOATS, INTS, TEXTS, mutate
from fuzz.parties import welcome
from splitft import Job
from splitft.engines.network.control import Welcome
from splitft.errors import NetworkError, PolicyError, SplitFTError
from splitft.job.site_policy import SitePolicy, check_policy, may_adapt
from splitft.job.told import read_told
from splitft.running.agreement import FIRST, Agreement
from splitft.running.client_setup import ClientSetup

STRICT = SitePolicy(
    labels=["client"], max_cut=2, max_tail_blocks=2, target_modules=["q_proj"], columns=["text"],
    max_rounds=5, max_local_steps=9, max_evaluations=9, models={}, codecs=["int8"],
    datasets=["a"], aggregator_hosts=["b"],
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, False, [], {}, [1, 2], ["a", "b"], {"c0": "x"}, *INTS, *FLOATS, *TEXTS)


@cache
def jobs() -> list[dict[str, Any]]:
    """Return the jobs of all modes as servers tell them, and all keys of a job with their defaults."""
    told = [json.loads(welcome(mode).job) for mode in MODES.values()]
    return [*told, {**told[0], **Job(**told[0], output_dir="run").model_dump(mode="json")}]


def changed_job(rng: random.Random) -> str:
    """Return a job of which some keys are others, as JSON; rarely damaged."""
    job: Any = json.loads(json.dumps(rng.choice(jobs())))
    for _ in range(rng.choice((1, 1, 2, 3))):
        level = job
        groups = [value for value in job.values() if isinstance(value, dict)]
        if groups and rng.random() < 0.3:
            level = rng.choice(groups)
        name = rng.choice(sorted(level)) if level and rng.random() < 0.9 else rng.choice(("x", "a.b", *TEXTS))
        if rng.random() < 0.1:
            level.pop(name, None)
        else:
            value = rng.choice(VALUES)
            level[name] = copy.deepcopy(rng.choice((value, value, [value] * 3)))
    text = json.dumps(job)
    if rng.random() < 0.1:
        text = mutate(rng, [text.encode()]).decode("utf-8", "replace")
    return "[" * 20_000 if rng.random() < 0.001 else text


class ToldTarget:
    """Lines of the welcome: optional keys, names of layers; then the job."""

    def generate(self, rng: random.Random) -> bytes:
        optional = rng.choice((["network", "order"], [], ["lora_r"], ["x", "x.y"], sorted(jobs()[-1])))
        layers = rng.choice((["model.layers.0.q_proj"], [rng.choice(TEXTS)], ["lm_head"] * 300))
        return f"{json.dumps(optional)}\n{json.dumps(layers)}\n{changed_job(rng)}".encode()

    def run(self, data_: bytes) -> str:
        optional, layers, text = _lines(data_)
        shown = io.StringIO()
        for policy in (SitePolicy(), STRICT):
            try:
                job, _ = read_told(text, optional, Job)
                check_policy(policy, job, job.network.aggregator, "server.example:1", job_data=True)
                may_adapt(policy, layers)
                kept = folder() / "site"
                shutil.rmtree(kept, ignore_errors=True)
                kept.mkdir()
                Agreement(kept, FIRST, Console(file=shown, width=100)).require(job, layers, "--data rows.txt")
                Agreement(kept, FIRST, QUIET).require(job, layers, "--data rows.txt")
            except (NetworkError, PolicyError) as error:
                outcome = f"refused: {type(error).__name__}"
                _check_line(error)
            else:
                outcome = "agreed"
        if not shown.getvalue().replace("\n", "").isprintable():
            raise UnclearError("control characters are shown")
        return outcome


class JoiningTarget(ToldTarget):
    """The same for a whole client that joins: it reads its data and loads its blocks."""

    def run(self, data_: bytes) -> str:
        optional, layers, text = _lines(data_)
        honest = welcome(MODES["client labels"])
        targets = tuple(layers) if layers and layers[0].endswith("x") else honest.targets
        said = Welcome("s", 0, text, targets, honest.excluded, honest.server_inputs, tuple(optional))
        setup = ClientSetup("anna", data(), None, None, QUIET, _no_dial, server="127.0.0.1:1")
        try:
            made = setup.make(said)
            setup.need(made.client, 1)
        except SplitFTError as error:
            _check_line(error)
            return f"refused: {type(error).__name__}"
        return "joined"


def _no_dial(address: str) -> Any:
    raise AssertionError(f"{address} is dialled")


def _lines(data_: bytes) -> tuple[Sequence[str], list[str], str]:
    first, _, rest = data_.decode("utf-8", "replace").partition("\n")
    second, _, text = rest.partition("\n")
    return _texts(first), _texts(second), text


def _texts(line: str) -> list[str]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _check_line(error: SplitFTError) -> None:
    """Raise where an error is not for people: it has control characters, or is very long."""
    text = str(error)
    if not text.replace("\n", "").isprintable() or len(text) > 4000:
        raise UnclearError(f"{len(text)} characters: {text[:300]!r}") from error

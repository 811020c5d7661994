"""Prove that a model split at its cuts computes what the whole model computes: no job trains on less."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedConfig

from splitft.common.text import error_line
from splitft.errors import ModelError
from splitft.model.config import count_blocks
from splitft.model.head import HeadForm
from splitft.model.slots import (
    AdapterSlots,
    expert_parameters,
    inject,
    lora_config,
    resolve_targets,
    uses_fan_in_fan_out,
)
from splitft.model.split_model import ServerInputs, SplitModel
from splitft.model.window import eval_mode, install_window
from splitft.proof.batched import prove_batching
from splitft.proof.harness import kept_random_state
from splitft.proof.head import try_head
from splitft.proof.next_token import try_next_token
from splitft.proof.packed import try_padding_free
from splitft.proof.parts import try_parts
from splitft.proof.targets import problems_in
from splitft.proof.training import as_trained
from splitft.proof.trial import RefusedError, SplitTrial, Wanted, finite_random_model, try_split
from splitft.weights.kinds import causal_class
from splitft.weights.shrink import NotBuiltError, shrink_config

Labels = Literal["server", "client"]
Verdict = Literal["exact", "exact with real ids", "splits only", "refused", "could not be built"]


@dataclass(frozen=True)
class SplitReport:
    """Verdict on a split, and the way to feed the server's embeddings."""

    ok: bool  # exact, so that it may be trained
    reason: str
    server_inputs: ServerInputs
    max_logit_difference: float  # at valid positions, absolute
    max_gradient_difference: float  # at the cut or of a parameter, relative to its largest entry
    cuts: tuple[int, ...]  # cuts that were tried (of the shrunk copy where no cuts were given)
    num_blocks: int  # of the whole model
    model_type: str
    tail_exact: bool | None = None  # front, trunk and tail equal the whole; None: not tried
    built: bool = True  # False: no small copy could be built, so nothing is known
    head: HeadForm = "whole"  # form of the loss in chunks; whole: the model computes its loss itself
    head_reason: str = ""  # problem of the loss in chunks
    together: str | None = None  # problem of clients with several cuts in one pass; None: not tried
    padding_free: str | None = None  # problem of samples that share a row; None: not tried
    parts: str | None = None  # problem of a batch in parts; None: not tried
    splits: bool = False  # whole and split are equal, whether or not it may be trained
    targets: tuple[str, ...] = ()  # default names of modules with LoRA; of a configuration alone
    experts: tuple[str, ...] = ()  # weights of fused experts that LoRA adapts where a job states them
    left_out: dict[str, str] = field(default_factory=dict)  # names without LoRA, and why

    @property
    def verdict(self) -> Verdict:
        """The report in three words at most."""
        if not self.built:
            return "could not be built"
        if not self.ok:
            return "splits only" if self.splits else "refused"
        return "exact" if self.server_inputs == "dummy_ids" else "exact with real ids"

    @classmethod
    def refused(
        cls, reason: str, model_type: str, cuts: tuple[int, ...] = (), blocks: int = 0, *, built: bool = True
    ) -> SplitReport:
        """Return the report where nothing could be measured."""
        return cls(False, reason, "dummy_ids", 0.0, 0.0, cuts, blocks, model_type, built=built)


def check_split(
    model_or_config: nn.Module | PreTrainedConfig | str | Path,
    cuts: Iterable[int] | None = None,
    *,
    tail_blocks: int = 0,
    labels: Labels = "server",
    padding_free: bool = False,
    slots: AdapterSlots | None = None,
    seed: int = 0,
) -> SplitReport:
    """Compare whole and split on a few tokens, and report whether the split may be trained.

    A model is proven as it is, with its weights, dtype and adapters; its weights, gradients, modes and the
    caller's random state are left alone. A configuration (or a folder or hub id, of which only the
    configuration is read) is proven on a small random copy. Raises ModelError on an impossible cut or a
    missing model; problems of the split itself are in the report.

    cuts: default every cut.
    tail_blocks: last blocks at the client, at least 1 with labels="client".
    padding_free: try samples that share a row, too; of a configuration that is always tried.
    slots: of the adapters in the model. One training step is then compared, with random adapters, which stay
        bound: logits, loss, and the gradients at the cut and of every adapter.
    """
    if isinstance(model_or_config, str | Path):
        from splitft.weights.load import load_config

        model_or_config = load_config(str(model_or_config))
    with kept_random_state():
        if not isinstance(model_or_config, nn.Module):
            return _check_config(model_or_config, cuts, tail_blocks, labels, seed)
        report = _check_model(model_or_config, cuts, tail_blocks, labels, slots, seed)
        if not (padding_free and report.ok):
            return report
        tail = report.num_blocks - tail_blocks if tail_blocks else None
        problem = try_padding_free(model_or_config, report.cuts, report.server_inputs, tail, seed)
        return replace(report, padding_free=problem)


def _check_model(
    model: Any,
    cuts: Iterable[int] | None,
    tail_blocks: int,
    labels: Labels,
    slots: AdapterSlots | None,
    seed: int,
) -> SplitReport:
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    count = count_blocks(model.config)
    wanted = Wanted(
        valid_cuts(cuts, count, tail_blocks, labels),
        tail=count - tail_blocks if tail_blocks else None,
        tail_decides=tail_blocks > 0,
        only_tail=labels == "client",
        guard_all=False,
        slots=slots,
    )
    with suppress(Exception):  # errors are reported below; here the window takes the list's own mode
        install_window(model)
    return _report(model, wanted, labels, seed)


def _check_config(
    config: Any, cuts: Iterable[int] | None, tail_blocks: int, labels: Labels, seed: int
) -> SplitReport:
    try:
        count = count_blocks(causal_class(config)[1])
        given = valid_cuts(cuts, count, tail_blocks, labels)
        small = shrink_config(config)
    except NotBuiltError as error:
        return SplitReport.refused(str(error), config.model_type, given, count, built=False)
    # A small copy, and the cuts of it that stand for those of the model.
    model = finite_random_model(small, seed)
    here = count_blocks(model.config)
    tail = here - max(min(tail_blocks, here - 2), 1)
    mapped = tuple(range(1, here)) if cuts is None else map_cuts(given, count, here)
    if tail_blocks and min(mapped) >= tail:
        mapped = (tail - 1, *mapped)
    wanted = Wanted(mapped, tail=tail if tail > 1 else None, tail_decides=tail_blocks > 0)
    # The split; where it is exact, also the questions that only some runs ask.
    report = _report(model, wanted, labels, seed)
    tried = report.cuts if cuts is None else given
    report = replace(report, num_blocks=count, model_type=config.model_type)
    if not report.ok:
        return replace(report, cuts=tried)
    flat = try_padding_free(model, report.cuts, report.server_inputs, seed=seed, small=model)
    report = replace(report, padding_free=flat, parts=try_parts(model, seed))
    report = _try_adapters(model, small, report, seed)
    return replace(report, cuts=tried)


def _try_adapters(model: Any, small: PreTrainedConfig, report: SplitReport, seed: int) -> SplitReport:
    """Inject default adapters into a small copy; prove a training step, and clients in one pass."""
    try:
        (names, excluded), fused = resolve_targets(model, None), expert_parameters(model)

        def configure(copy: Any, some: Sequence[str]) -> Any:
            return lora_config(
                [name for name in some if name not in fused],
                excluded,
                r=4,
                alpha=8,
                dropout=0.0,
                fan_in_fan_out=uses_fan_in_fan_out(copy),
                parameters=[name for name in some if name in fused],
            )

        left_out, not_fused = (problems_in(small, some, configure, seed) for some in (names, fused))
        experts = tuple(name for name in fused if name not in not_fused)
        left_out |= {name: problem for name, problem in not_fused.items() if "expert" in name}
        targets = tuple(name for name in names if name not in left_out)
        if not targets:
            reasons = "; ".join(dict.fromkeys(left_out.values()))
            raise RefusedError(f"it can adapt none of the linear layers ({reasons})")
        slots = inject(model, configure(model, targets))
        trained = Wanted((report.cuts[0], *report.cuts[1:][-1:]), guard_all=False, slots=slots)
        with as_trained(model, slots, seed):
            _, trial = try_split(model, trained, seed)
    except (RefusedError, ModelError) as refusal:
        return replace(report, ok=False, reason=f"with LoRA: {refusal}")
    except Exception as error:  # a foreign model may raise anything
        return replace(report, ok=False, reason=f"with LoRA: {error_line(error)}")
    report = replace(report, targets=targets, experts=experts, left_out=left_out)
    if trial.problems:
        return replace(report, ok=False, reason=f"a training step with LoRA: {trial.first_problem}")
    if len(report.cuts) == 1:
        return report
    split = SplitModel(model, slots, server_inputs=report.server_inputs)
    return replace(report, together=prove_batching(split, report.cuts, seed))


def _report(model: Any, wanted: Wanted, labels: Labels, seed: int) -> SplitReport:
    model_type = str(model.config.model_type)
    try:
        with as_trained(model, wanted.slots, seed) if wanted.slots else eval_mode(model):
            dummy, best = try_split(model, wanted, seed)
    except (RefusedError, ModelError) as refusal:
        return SplitReport.refused(str(refusal), model_type, wanted.cuts, count_blocks(model.config))
    splits, reason = _judge(dummy, best, wanted, labels)
    problem = try_next_token(model, seed) if splits else ""
    ok, reason = splits and not problem, problem or reason
    head, head_reason = try_head(model, seed) if ok else ("whole", "")
    return SplitReport(
        ok,
        reason,
        best.server_inputs,
        best.logits,
        best.gradients,
        wanted.cuts,
        count_blocks(model.config),
        model_type,
        best.tail_exact,
        head=head,
        head_reason=head_reason,
        splits=splits,
    )


def _judge(dummy: SplitTrial, best: SplitTrial, wanted: Wanted, labels: Labels) -> tuple[bool, str]:
    if best.problems:
        exact = [cut for cut in wanted.cuts if cut not in best.problems]
        even = ""
        if best.first_problem not in dummy.problems.values():
            even = ", even with the token ids at the server"
        advice = f"Cuts that are exact: {', '.join(map(str, exact))}." if exact else "Choose another model."
        return False, f"{best.first_problem}{even}. {advice}"
    if best.server_inputs == "dummy_ids":
        return True, "whole and split are equal; the server needs no token ids"
    if labels == "client":
        return False, (
            "labels at the client keep the text at home, but this model's server needs the token ids "
            f"({dummy.first_problem}). Set labels: server where the server is trusted, or choose another "
            "model."
        )
    return True, f"whole and split are equal if the server gets the token ids ({dummy.first_problem})"


def valid_cuts(
    cuts: Iterable[int] | None, count: int, tail_blocks: int = 0, labels: Labels = "server"
) -> tuple[int, ...]:
    """Return the cuts, sorted, or every possible one. Raises ModelError on one that is not possible."""
    last = count - 1 - tail_blocks
    if labels == "client" and tail_blocks < 1:
        raise ModelError("labels at the client need at least one tail block: set tail_blocks to 1 or more")
    tails = f", of which {tail_blocks} are tail blocks" if tail_blocks else ""
    if last < 1:
        raise ModelError(f"a model of {count} blocks{tails} has no cut: choose a model with more blocks")
    wanted = tuple(range(1, last + 1)) if cuts is None else tuple(sorted(set(cuts)))
    wrong = ", ".join(str(cut) for cut in wanted if not 1 <= cut <= last)
    if wrong or not wanted:
        raise ModelError(
            f"cut {wrong or '(none)'} is not possible: the model has {count} blocks{tails}; "
            f"choose cuts from 1 to {last}"
        )
    return wanted


def map_cuts(cuts: Sequence[int], count: int, small: int) -> tuple[int, ...]:
    """Return the cuts of a copy of `small` blocks that stand for these of `count`.

    Those as far from the first or the last block; every cut where there is none.
    """
    mapped: set[int] = set()
    for cut in cuts:
        near = {c for c in (cut, small - (count - cut)) if 1 <= c < small}
        mapped |= near or set(range(1, small))
    return tuple(sorted(mapped))

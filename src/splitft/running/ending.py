"""The last lines of a run: where its results are and how to use them, or why there is nothing to use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from splitft.common.checkpoint import FOLDER
from splitft.errors import DivergedError
from splitft.job.settings import OptimizerSettings
from splitft.lora.blocks import Adapter, unchanged
from splitft.lora.optimizer import learning_rates


def adapter_changed(before: Adapter, after: Mapping[str, Adapter]) -> bool:
    """Whether any of a run's adapters differs from the one that all started from."""
    return not all(unchanged(before, adapter) for adapter in after.values())


def unchanged_line(job: OptimizerSettings) -> str:
    """Return the last line of a run whose adapter did not change: the reason, and the keys to set."""
    rate, total = learning_rates(job), job.rounds * job.local_steps
    if not any(any(rate(step)) for step in range(total)):
        steps = "its only optimizer step had" if total == 1 else f"all {total} optimizer steps had"
        return (
            f"The adapter did not change: {steps} learning rate 0, as warm-up begins. Take more steps "
            "(rounds, local_steps), or none of warm-up (warmup_ratio=0 warmup_steps=0)."
        )
    return "The adapter did not change: raise learning_rate, or take more steps (rounds, local_steps)."


def missing_line(missing: Mapping[str, str], invited: int) -> str:
    """Return the last line of a run that went on without some of its clients."""
    told = "; ".join(f"{name} ({reason})" for name, reason in missing.items())
    return f"The run is complete with {invited - len(missing)} of {invited} clients. Missing: {told}"


def stop_line(stop: BaseException, folder: Path, round_: int) -> str:
    """Return what a run that was stopped has left. round_: its last complete one."""
    if isinstance(stop, DivergedError):
        return f"diverged in round {round_ + 1}; the last finite state, of round {round_}, is in {folder}"
    how = "interrupted" if isinstance(stop, KeyboardInterrupt) else "stopped"
    go_on = ", --resume goes on" if (folder / FOLDER).exists() else ""
    return f"{how} after round {round_}; its results are in {folder}{go_on}"


def diverges_again(folder: Path) -> DivergedError:
    """Return the error of `--resume` on a run in this process that diverged."""
    return DivergedError(
        f"the run in {folder} diverged, and the same job would diverge again: lower learning_rate or set "
        "max_grad_norm, with another output_dir; to start from its last finite adapter, add "
        f"adapter_name_or_path={folder}/adapter"
    )

"""What is evaluated: a run, an adapter or a model, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from splitft.common.text import error_line
from splitft.errors import JobError, ModelError
from splitft.job import load_job
from splitft.job.settings import DataSettings
from splitft.running.export import read_adapter
from splitft.running.folder import JOB
from splitft.weights.hub import resolve_model
from splitft.weights.load import load_config, load_model
from splitft.weights.quantized import quantization

ADAPTER, OWN = "adapter", "adapters"  # folders in a run: the global adapter, or one of each client
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Target:
    """A base model, the adapter on it if there is one, and the run that both come from if that is known.

    data: the settings of the run's data.
    """

    base: str
    revision: str = "main"
    adapter: Path | None = None
    run: Path | None = None
    data: DataSettings | None = None
    use_cpu: bool = False

    def forbids(self, folder: Path) -> bool:
        """Whether a folder lies in the run, the adapter or the model, or holds one."""
        own = [self.run, self.adapter, Path(self.base) if Path(self.base).is_dir() else None]
        place = folder.resolve()
        owned = [part.resolve() for part in own if part is not None]
        return any(place.is_relative_to(part) or part.is_relative_to(place) for part in owned)


def find_target(name: str, base: str | None = None) -> Target:
    """Return what a name means: the folder of a run, of a PEFT adapter or of a model, or a model's name.

    base: the base model, where this machine has it under another name.
    Raises JobError for a folder that is none of these and for a run without an adapter, ModelError for a
    model that is not there.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if base is not None:
            raise JobError(f"--model goes with a run or an adapter, and {name} is no folder of one")
        resolve_model(name)  # tells at once of a folder that is not there
        return Target(name)
    if (folder / JOB).is_file():
        return _of_run(folder, folder / ADAPTER, base)
    if (folder / "adapter_config.json").is_file():
        run = folder.parent.parent if folder.parent.name == OWN else folder.parent
        if (run / JOB).is_file():
            return _of_run(run, folder, base)
        return Target(base or _base_of(folder), adapter=folder)
    if (folder / "config.json").is_file():
        return Target(str(folder))
    raise JobError(
        f"{folder} holds no run ({JOB}), no adapter (adapter_config.json) and no model (config.json): give "
        "the output_dir of a run, an adapter's folder, or a model"
    )


def _of_run(run: Path, adapter: Path, base: str | None) -> Target:
    if not (adapter / "adapter_config.json").is_file():
        own = sorted(path.name for path in (run / OWN).glob("*") if path.is_dir())
        if own:
            raise JobError(
                f"{run} holds an adapter of each client and no global one: name one, for example "
                f"{run / OWN / own[0]}"
            )
        raise JobError(
            f"{run} holds no adapter: none of its rounds is complete; finish it with "
            f"`splitft run {run / JOB} --resume`"
        )
    job = load_job(run / JOB)
    return Target(base or job.model_name_or_path, job.model_revision, adapter, run, job, job.use_cpu)


def _base_of(adapter: Path) -> str:
    config, _ = read_adapter(adapter)
    if not config.base_model_name_or_path:
        raise ModelError(f"the adapter in {adapter} names no base model: give it with --model")
    return str(config.base_model_name_or_path)


def load_base(target: Target, dtype: Dtype) -> Any:
    """Return the base model on the accelerator, if there is one and the run used it. Raises ModelError."""
    model: Any = load_model(target.base, revision=target.revision, dtype=getattr(torch, dtype))
    found = None if target.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return model.to(found or "cpu")


def with_adapter(model: Any, target: Target) -> Any:
    """Return the model with the target's adapter: merged in float32, else beside the base, as peft runs it.

    The model itself is changed. Raises ModelError where the adapter does not fit.
    """
    from peft import PeftModel

    assert target.adapter is not None
    read_adapter(target.adapter)  # a plain LoRA adapter in safetensors, and nothing else
    try:
        tuned: Any = PeftModel.from_pretrained(model, str(target.adapter))
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(
            f"the adapter in {target.adapter} does not fit {target.base}: {error_line(error)}"
        ) from error
    merges = model.dtype is torch.float32 and quantization(load_config(target.base, target.revision)) is None
    return tuned.merge_and_unload() if merges else tuned.eval()

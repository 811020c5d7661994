"""Adapters as PEFT folders: written with a README.md for hubs, read back, exported, merged."""

from __future__ import annotations

import math
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from splitft.common.quiet import quiet_libraries
from splitft.errors import JobError, ModelError, OutputError
from splitft.job import Job
from splitft.job.base_model import GIVEN_MODEL
from splitft.lora.basis import canonical_block
from splitft.lora.blocks import (
    Adapter,
    BlockAdapter,
    concat,
    has_rank,
    is_a,
    module_of,
    name_of_a,
    rank_of,
    resize,
)
from splitft.model.slots import AdapterSlots, from_peft, peft_name, peft_tensors
from splitft.running.misfit import misfit, other_kind
from splitft.running.private import privacy_text
from splitft.running.progress import number
from splitft.weights.kinds import auto_class, sees_images

_CARD = """---
{header}---

# LoRA adapter fine-tuned with SplitFT

{how}

| | before | after {rounds} rounds |
|---|---|---|
| held-out perplexity (per token, context up to {job.max_length}) | {ppl_before} | {ppl} |
| next-token accuracy | {acc_before} | {acc} |

Rank {job.lora_r} ({r_cut} at the cut), alpha {job.lora_alpha:g}, target modules {targets};
server adapter `{job.server_adapter}`, labels at the {job.labels}; {up:.1f} MB went up and {down:.1f} MB down.
{privacy}
```python
from peft import PeftModel
from transformers import {auto}

base = {auto}.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```
"""


_HOW = {
    "splitft": """\
{clients} clients fine-tuned `{base}` together without pooling their data: each ran the first blocks of the
model on its own text (cuts {cuts} of {blocks} blocks at the end), a server ran the rest, and only LoRA
adapters were trained and averaged.""",
    "fed_lora": """\
{clients} clients fine-tuned `{base}` together without pooling their data: each trained LoRA adapters on the
whole model, and only these were averaged. (A baseline without a split.)""",
    "local_only": """\
One of {clients} clients fine-tuned `{base}` on its own data alone. (A baseline without any exchange; the
figures are over all clients.)""",
    "centralized": """\
`{base}` was fine-tuned on the pooled data of {clients} clients. (A baseline: the data were in one place.)""",
}
_HOW["same_split"] = _HOW["splitft"]


def model_card(job: Job, summary: Mapping[str, Any], base: str, config: PreTrainedConfig) -> str:
    """Return the card: what was trained, how, and what it reached. It names no client's data.

    config: of the base model.
    """
    header = yaml.safe_dump(
        {
            "base_model": base,
            "library_name": "peft",
            "pipeline_tag": "image-text-to-text" if sees_images(config) else "text-generation",
            "tags": ["lora", "federated-learning", "split-learning", "splitft"],
        },
        sort_keys=False,
    )
    cuts = ", ".join(map(str, sorted(set(summary["cuts"].values()))))
    shown = {key: summary[key] for key in ("clients", "blocks", "rounds")} | {"base": base, "cuts": cuts}
    targets = job.lora_target_modules or "peft's default for this model"
    return _CARD.format(
        **shown,
        job=job,
        header=header,
        auto=auto_class(config),
        how=_HOW[job.method].format(**shown),
        ppl_before=number(summary.get("perplexity_before"), 2),
        ppl=number(summary.get("perplexity"), 2),
        acc_before=number(summary.get("accuracy_before"), 3),
        acc=number(summary.get("accuracy"), 3),
        r_cut=job.lora_r_cut or job.lora_r,
        targets=targets if isinstance(targets, str) else ", ".join(targets),
        up=summary["bytes_up"] / 1e6,
        down=summary["bytes_down"] / 1e6,
        privacy=f"\n{privacy}\n" if (privacy := privacy_text(summary)) else "",
    )


_OF_IMAGES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return the files of a tokenizer and its chat template: {path within a folder: content}."""
    with tempfile.TemporaryDirectory() as made:
        tokenizer.save_pretrained(made)
        paths = [path for path in sorted(Path(made).rglob("*")) if path.is_file()]
        return {str(path.relative_to(made)): path.read_bytes() for path in paths}


def save_adapter(
    folder: Path,
    adapter: Adapter,
    slots: AdapterSlots,
    job: Job,
    card: str,
    base: str,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write the adapter so that `PeftModel.from_pretrained(base_model, folder)` loads it.

    base: the base model's hub id or absolute path. beside: other files of the folder (`tokenizer_files`).

    The folder, which its owner alone can enter, is written beside its place and moved there, so that readers
    never see a part of it. Where
    adapters started as a part of the base weights, that part is taken off in as many more components, as peft
    does: the folder is for the base model as it was.
    """
    full = 2 * job.lora_r if slots.start else job.lora_r
    if slots.start:
        adapter = {block: concat([own, _negative(slots.start[block])]) for block, own in adapter.items()}
    ranks = {
        _pattern(slots, block, name): rank_of(tensors)
        for block, tensors in adapter.items()
        for name in tensors
        if rank_of(tensors) != full
    }
    config: Any = replace(
        slots.config,
        base_model_name_or_path=base,
        inference_mode=True,
        r=full,
        lora_alpha=_alpha_at(full, job),
        rank_pattern=ranks,
        # The scaling stays the same, so that a change of rank never changes the function.
        alpha_pattern={path: _alpha_at(rank, job) for path, rank in ranks.items()},
    )
    tensors = peft_tensors(adapter, slots)
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(mode=0o700, parents=True)
    save_file(tensors, fresh / "adapter_model.safetensors", metadata={"format": "pt"})
    (fresh / "adapter_model.safetensors").chmod(0o600)
    for key in ("target_modules", "exclude_modules"):  # peft's sets would be in another order each time
        if isinstance(names := getattr(config, key), set):
            setattr(config, key, sorted(names))
    config.save_pretrained(fresh)
    (fresh / "README.md").write_text(card, encoding="utf-8")
    for name, content in (beside or {}).items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(content)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _alpha_at(rank: int, job: Job) -> float:
    """Return the lora_alpha with which an adapter of this rank has the job's scaling."""
    share = rank / job.lora_r
    return job.lora_alpha * math.sqrt(share) if job.use_rslora else job.lora_alpha * rank / job.lora_r


def _negative(block: BlockAdapter) -> BlockAdapter:
    """Return the block's adapter with the opposite product."""
    return {name: tensor if is_a(name) else -tensor for name, tensor in block.items()}


def _pattern(slots: AdapterSlots, block: int, name: str) -> str:
    """Return the name that peft's patterns have for the module, or the parameter, of a LoRA tensor."""
    module = module_of(name)
    return f"{slots.path}.{block}.{slots.parameters.get(module, module)}"


def load_adapter(folder: str | Path, slots: AdapterSlots, job: Job) -> Adapter:
    """Return the adapter of a PEFT folder, scaled to the job's scaling, in the model's order.

    Every tensor of a block gets the highest rank in that block, by zeros; where a cut lowers the rank, the
    best components come first. Raises ModelError where the folder is no plain LoRA adapter of this model, or
    its rank exceeds lora_r.
    """
    from peft.utils.other import get_pattern_key

    folder = Path(folder).expanduser()
    config, tensors = read_adapter(folder)
    if problem := misfit(config, tensors, slots, job, job.frozen_blocks):
        raise ModelError(f"the adapter in {folder} {problem}")
    adapter: Adapter = {}
    for block, specs in slots.layout.items():
        given: BlockAdapter = {}
        for spec in specs:
            key = peft_name(slots, block, spec.name)
            stored = tensors[key].float()
            given[spec.name] = tensor = from_peft(spec, stored)
            rank = rank_of({name_of_a(spec.name): given[name_of_a(spec.name)]})  # A comes before its B
            if rank > job.lora_r or tensor.shape != spec.at_rank(rank):
                raise ModelError(
                    f"{key} of the adapter in {folder} has shape {tuple(stored.shape)}; "
                    f"this job expects {spec.shape}: set lora_r to the adapter's rank"
                )
            if has_rank(spec.name) and not is_a(spec.name):
                pattern = get_pattern_key(list(config.alpha_pattern), _pattern(slots, block, spec.name))
                alpha = config.alpha_pattern.get(pattern, config.lora_alpha)
                scaling = alpha / (math.sqrt(rank) if config.use_rslora else rank)
                factor = scaling / job.lora_scaling
                given[spec.name] = tensor if factor == 1 else tensor * factor
        ranks = [rank_of({name: tensor}) for name, tensor in given.items() if has_rank(name)]
        adapter[block] = resize(given, max(ranks))
        if job.lora_r_cut not in (None, job.lora_r):
            adapter[block] = canonical_block(adapter[block])
    return adapter


def read_adapter(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """Return the LoraConfig and the tensors of a PEFT folder, or raise ModelError."""
    from peft import LoraConfig

    weights = folder / "adapter_model.safetensors"
    for path in (folder / "adapter_config.json", weights):
        if not path.is_file():
            inside = f"; name {folder / 'adapter'}" if (folder / "adapter" / path.name).is_file() else ""
            raise ModelError(f"{folder} is no PEFT adapter: it has no {path.name}{inside}")
    try:
        config: Any = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(weights)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"the adapter in {folder} cannot be read: {error}") from None
    if problem := other_kind(config):
        raise ModelError(f"the adapter in {folder} {problem}")
    return config, tensors


def usage_hints(run_dir: Path, base: str, job: Job, config: PreTrainedConfig) -> str:
    """Return the commands that load and serve what a run made, from any folder. config: of the base model."""
    adapter, run = str((run_dir / "adapter").resolve()), shlex.quote(str(run_dir.resolve()))
    rank = max(2 * job.lora_r if job.moves_base else job.lora_r, 8)
    if base == GIVEN_MODEL:
        return f"""\
Load it in Python with load_model() of the result, or on the model that this run was given:
  peft.PeftModel.from_pretrained(model, {adapter!r})"""
    if sees_images(config):
        return f"""\
Load it with peft on {auto_class(config)}, as {adapter}/README.md shows, or merge it:
  splitft export {run} merged --merge"""
    code = f"from peft import AutoPeftModelForCausalLM as M; print(M.from_pretrained({adapter!r}))"
    # Single quotes within double ones are easier to read, where nothing in the path has a meaning to a shell.
    code = f'"{code}"' if adapter == shlex.quote(adapter) else shlex.quote(code)
    if job.use_dora:
        vllm = f" (it takes no DoRA adapter)\n  splitft export {run} merged --merge && vllm serve merged"
    else:
        lora = f"--enable-lora --max-lora-rank {rank} --lora-modules {shlex.quote(f'tuned={adapter}')}"
        vllm = f"\n  vllm serve {shlex.quote(base)} {lora}"
    return f"""\
Load it with peft:
  python -c {code}
Serve it with vLLM:{vllm}
Serve it with llama.cpp (its convert_hf_to_gguf.py makes the file):
  splitft export {run} merged --merge
  python convert_hf_to_gguf.py merged --outfile merged.gguf && llama-server -m merged.gguf"""


def export_command(run_dir: Path, out: Path | None, merge: bool) -> Path:
    """Copy a run's adapter to `out` (default: RUN/export), or merge it into its base model there.

    Raises JobError where RUN holds no finished adapter, OutputError where `out` exists.
    """
    adapter = run_dir / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        raise JobError(f"{run_dir} holds no adapter; give the output_dir of a run")
    out = out or run_dir / ("merged" if merge else "export")
    if out.exists():
        raise OutputError(f"{out} exists already; give another folder to export to")
    try:
        if not merge:
            for path in [adapter, *sorted(adapter.rglob("*"))]:  # contents alone: the modes are the umask's
                if path.is_dir():
                    (out / path.relative_to(adapter)).mkdir(parents=True)
                else:
                    shutil.copyfile(path, out / path.relative_to(adapter))
        else:
            _merge(adapter, out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from None
    print(f"Wrote {out}")
    return out


def _merge(adapter: Path, out: Path) -> None:
    from peft import PeftConfig, PeftModel

    from splitft.weights.hub import locator, resolve_model
    from splitft.weights.load import load_config, load_model, load_tokenizer
    from splitft.weights.quantized import quantization

    quiet_libraries()
    base = str(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
    if base == GIVEN_MODEL:
        raise ModelError(
            f"the model of {adapter.parent} was an object from Python without a name: merge there, with "
            "result.load_model().merge_and_unload().save_pretrained(FOLDER)"
        )
    found = quantization(load_config(base))
    if found is not None and not found.method.dequantized:
        raise ModelError(
            f"{base} is quantised ({found}): a merge would round the adapter to its values. Load the adapter "
            "with peft beside the base, or onto the model that the base was made from"
        )
    model = PeftModel.from_pretrained(load_model(base, dtype=torch.float32), str(adapter))
    merged: Any = model.merge_and_unload()
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    # In the checkpoint's own format, but for a dequantised one: that would be quantised again.
    merged.save_pretrained(fresh, save_original_format=found is None)
    load_tokenizer(base, beside=adapter).save_pretrained(fresh)
    if "vision_config" in merged.config.sub_configs:
        locate = locator(resolve_model(base))
        for path in filter(None, map(locate, _OF_IMAGES)):
            shutil.copyfile(path, fresh / path.name)
    fresh.rename(out)

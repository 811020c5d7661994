"""Adapters as PEFT folders: written with a README.md for hubs, read back, exported, merged."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from splitft.common.quiet import quiet_libraries
from splitft.errors import JobError, ModelError, OutputError
from splitft.job import Job
from splitft.lora.basis import canonical_block
from splitft.lora.blocks import Adapter, BlockAdapter, is_a, module_of, name_of_a, rank_of, resize
from splitft.model.slots import AdapterSlots
from splitft.running.progress import number

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

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
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


def model_card(job: Job, summary: Mapping[str, Any], base: str) -> str:
    """Return the card: what was trained, how, and what it reached. It names no client's data."""
    header = yaml.safe_dump(
        {
            "base_model": base,
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "tags": ["lora", "federated-learning", "split-learning", "splitft"],
        },
        sort_keys=False,
    )
    cuts = ", ".join(map(str, sorted(set(summary["cuts"].values()))))
    shown = {key: summary[key] for key in ("clients", "blocks", "rounds")} | {"base": base, "cuts": cuts}
    targets = job.lora_target_modules
    names = ", ".join(targets) if isinstance(targets, list) else targets or "peft's default for this model"
    return _CARD.format(
        **shown,
        job=job,
        header=header,
        how=_HOW[job.method].format(**shown),
        ppl_before=number(summary.get("perplexity_before"), 2),
        ppl=number(summary.get("perplexity"), 2),
        acc_before=number(summary.get("accuracy_before"), 3),
        acc=number(summary.get("accuracy"), 3),
        r_cut=job.lora_r_cut or job.lora_r,
        targets=names,
        up=summary["bytes_up"] / 1e6,
        down=summary["bytes_down"] / 1e6,
    )


# Settings of peft with which an adapter computes something else than B·A, or changes the base weights.
_OTHER_FUNCTIONS = (
    "use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config",
    "layer_replication", "monteclora_config", "velora_config",
)  # fmt: skip
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")


def save_adapter(folder: Path, adapter: Adapter, slots: AdapterSlots, job: Job, card: str, base: str) -> None:
    """Write the adapter so that `PeftModel.from_pretrained(base_model, folder)` loads it.

    The folder is written beside its place and moved there, so that readers never see a part of it.
    """
    ranks = {
        f"{slots.path}.{block}.{module_of(name)}": rank_of(tensors)
        for block, tensors in adapter.items()
        for name in tensors
        if rank_of(tensors) != job.lora_r
    }
    config = replace(
        slots.config,
        base_model_name_or_path=base,
        inference_mode=True,
        rank_pattern=ranks,
        # The scaling stays alpha / r, so that a change of rank never changes the function.
        alpha_pattern={path: job.lora_alpha * rank / job.lora_r for path, rank in ranks.items()},
    )
    tensors = {
        f"base_model.model.{slots.path}.{block}.{name}": tensor.detach().float().cpu().contiguous()
        for block, values in adapter.items()
        for name, tensor in values.items()
    }
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(tensors, fresh / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(fresh)
    (fresh / "README.md").write_text(card, encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_adapter(folder: str | Path, slots: AdapterSlots, job: Job) -> Adapter:
    """Return the adapter of a PEFT folder, scaled to the job's lora_alpha / lora_r, in the model's order.

    Every tensor of a block gets the highest rank in that block, by zeros; where a cut lowers the rank, the
    best components come first. Raises ModelError where the folder is no plain LoRA adapter of this model, or
    its rank exceeds lora_r.
    """
    from peft.utils.other import get_pattern_key

    folder = Path(folder).expanduser()
    config, tensors = _read_adapter(folder)
    adapter: Adapter = {}
    for block, specs in slots.layout.items():
        given: BlockAdapter = {}
        for spec in specs:
            key = f"base_model.model.{slots.path}.{block}.{spec.name}"
            if key not in tensors:
                raise ModelError(
                    f"the adapter in {folder} has no {key}: lora_target_modules must be the same"
                )
            given[spec.name] = tensor = tensors.pop(key).float()
            rank = given[name_of_a(spec.name)].shape[0]  # A comes before its B
            if rank > job.lora_r or tensor.shape != spec.at_rank(rank):
                raise ModelError(
                    f"{key} of the adapter in {folder} has shape {tuple(tensor.shape)}; "
                    f"this job expects {spec.shape}: set lora_r to the adapter's rank"
                )
            if not is_a(spec.name):
                module = f"{slots.path}.{block}.{module_of(spec.name)}"
                pattern = get_pattern_key(list(config.alpha_pattern), module)
                alpha = config.alpha_pattern.get(pattern, config.lora_alpha)
                scaling = alpha / (rank**0.5 if config.use_rslora else rank)
                factor = scaling / (job.lora_alpha / job.lora_r)
                given[spec.name] = tensor if factor == 1 else tensor * factor
        adapter[block] = resize(given, max(rank_of({name: tensor}) for name, tensor in given.items()))
        if job.lora_r_cut not in (None, job.lora_r):
            adapter[block] = canonical_block(adapter[block])
    if tensors:
        raise ModelError(
            f"the adapter in {folder} also has {next(iter(tensors))}, which this job does not train"
        )
    return adapter


def _read_adapter(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """Return the LoraConfig and the tensors of a PEFT folder, or raise ModelError."""
    from peft import LoraConfig

    weights = folder / "adapter_model.safetensors"
    for path in (folder / "adapter_config.json", weights):
        if not path.is_file():
            raise ModelError(f"adapter_name_or_path {folder} is no PEFT adapter: it has no {path.name}")
    try:
        config: Any = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(weights)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"adapter_name_or_path {folder} cannot be read: {error}") from None
    if not isinstance(config, LoraConfig):
        raise ModelError(f"the adapter in {folder} is no LoRA adapter but {config.peft_type.value}")
    unusual = [name for name in _OTHER_FUNCTIONS if getattr(config, name, None)]
    if isinstance(config.init_lora_weights, str) and config.init_lora_weights not in _PLAIN_STARTS:
        unusual.append(f"init_lora_weights {config.init_lora_weights}")
    if unusual:
        raise ModelError(
            f"the adapter in {folder} is no plain LoRA adapter ({', '.join(unusual)}): "
            "merge it into its model and start from that"
        )
    return config, tensors


def usage_hints(run_dir: Path, base: str, rank: int) -> str:
    """Return the commands that load and serve what a run made."""
    adapter = run_dir / "adapter"
    return f"""\
Load it with peft:
  python -c "from peft import AutoPeftModelForCausalLM as M; print(M.from_pretrained('{adapter}'))"
Serve it with vLLM:
  vllm serve {base} --enable-lora --max-lora-rank {max(rank, 8)} --lora-modules tuned={adapter}
Serve it with llama.cpp (its convert_hf_to_gguf.py makes the file):
  splitft export {run_dir} merged --merge
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
            shutil.copytree(adapter, out)
        else:
            _merge(adapter, out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from None
    print(f"Wrote {out}")
    return out


def _merge(adapter: Path, out: Path) -> None:
    from peft import PeftConfig, PeftModel

    from splitft.weights.load import load_config, load_model, load_tokenizer
    from splitft.weights.quantized import quantization

    quiet_libraries()
    base = str(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
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
    load_tokenizer(base).save_pretrained(fresh)
    fresh.rename(out)

"""The README.md of an exported adapter, as hubs show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from splitft.job import Job

_CARD = """---
{header}---

# LoRA adapter fine-tuned with SplitFT

{how}

| | before | after {rounds} rounds |
|---|---|---|
| held-out perplexity (per token, context up to {max_length}) | {ppl_before} | {ppl} |
| next-token accuracy | {acc_before} | {acc} |

Rank {r} ({r_cut} at the cut), alpha {alpha}, target modules {targets}; server adapter `{server_adapter}`,
labels at the {labels}; {up:.1f} MB went up and {down:.1f} MB down.

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
    cuts = sorted(set(summary["cuts"].values()))
    targets = job.lora_target_modules
    names = ", ".join(targets) if isinstance(targets, list) else targets or "peft's default for this model"
    how = _HOW[job.method].format(
        clients=summary["clients"], base=base, cuts=", ".join(map(str, cuts)), blocks=summary["blocks"]
    )
    return _CARD.format(
        header=header,
        how=how,
        base=base,
        rounds=summary["rounds"],
        max_length=job.max_length,
        ppl_before=_figure(summary.get("perplexity_before"), 2),
        ppl=_figure(summary.get("perplexity"), 2),
        acc_before=_figure(summary.get("accuracy_before"), 3),
        acc=_figure(summary.get("accuracy"), 3),
        r=job.lora_r,
        r_cut=job.lora_r_cut or job.lora_r,
        alpha=f"{job.lora_alpha:g}",
        targets=names,
        server_adapter=job.server_adapter,
        labels=job.labels,
        up=summary["bytes_up"] / 1e6,
        down=summary["bytes_down"] / 1e6,
    )


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

"""A client's own copy of the adapter, where the job hands it out at its end.

What a server sends is tensors alone, held to the shapes of the model here. This program writes them, as
safetensors: no file, no name and no text is the server's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from splitft.common.files import writing
from splitft.engines.network.control import AdapterCopy
from splitft.engines.network.request_gate import RequestGate
from splitft.engines.network.site_files import SiteFiles
from splitft.running.export import save_adapter
from splitft.running.model import Targets, adapter_shapes
from splitft.weights.hub import resolve_model

COPY = "adapter"  # a folder in the client's
_CARD = """\
# LoRA adapter of a SplitFT run

A client's copy of the adapter that all clients have trained together, for {base};
`peft.PeftModel.from_pretrained(base, FOLDER)` loads it.
"""


def keep_copy(
    message: AdapterCopy, gate: RequestGate, files: SiteFiles, job: Any, targets: Targets, console: Console
) -> Path:
    """Write an adapter that a server hands out as a stock PEFT folder in the client's folder; return it.

    gate: checks it. files: of the client's folder. job: a `Job`, as the client reads it. targets: names of
    its layers with adapters. Raises PolicyError beyond the job or the policy, ValueError where the tensors do
    not fit the model, OutputError where the folder cannot be written.
    """
    slots = adapter_shapes(job, console, targets)
    adapter = gate.checked_copy(message, slots.layout)
    files.check_room(message.values)
    source = str(resolve_model(job.model_name_or_path))
    base = str(Path(source).resolve()) if Path(source).is_dir() else source
    folder = files.folder / COPY
    with writing(folder, "choose another --folder"):
        save_adapter(folder, adapter, slots, job, _CARD.format(base=base), base)
    return folder

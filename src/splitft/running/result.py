"""What a run made, for people and notebooks: tables, a picture, the tuned model."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitft.errors import JobError
from splitft.history import RoundRecord
from splitft.running.callbacks import history_row
from splitft.running.picture import perplexity_figure
from splitft.running.progress import clock, megabytes, number
from splitft.running.tuned import continue_text, load_tuned

if TYPE_CHECKING:
    from pandas import DataFrame

Prompt = str | Sequence[Mapping[str, str]]


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run made. history: one record a round, the first before training.

    adapter_path: the adapter's folder; with `method: local_only` the folder of every client's.
    """

    output_dir: Path
    adapter_path: Path
    history: list[RoundRecord]
    summary: dict[str, Any]
    _cwd: Path = field(default_factory=Path.cwd, compare=False)  # relative paths are of this folder
    _base: Any = field(default=None, compare=False)  # the model object that the run was given

    def to_pandas(self) -> DataFrame:
        """Return a table with one row a round, by the names of history.jsonl; a slash goes down a level."""
        from pandas import DataFrame

        return DataFrame([history_row(record) for record in self.history]).set_index("round")

    def plot(self) -> Any:
        """Return the picture of the perplexity over the rounds, as a matplotlib Figure.

        Raises JobError where no round was evaluated.
        """
        figure = perplexity_figure(self.history)
        if figure is None:
            raise JobError(f"the run in {self.output_dir} evaluated no round: there is no perplexity to plot")
        return figure

    def load_model(self, client: str | None = None, **options: Any) -> Any:
        """Load the base with the adapter, as peft's PeftModel in eval mode.

        Of a run with a model object the base is a copy of it.

        client: whose adapter, with `method: local_only`. options: of transformers' from_pretrained: dtype
        (default: float32).
        """
        adapter = self._cwd / self.adapter_path
        own = sorted(path.name for path in adapter.glob("*/") if (path / "adapter_config.json").exists())
        if own and client not in own:
            raise JobError(
                f"every client of this run has an adapter of its own: name one of {', '.join(own)}"
            )
        return load_tuned(adapter / client if client else adapter, base=self._base, **options)

    def generate(
        self, prompt: Prompt, max_new_tokens: int = 50, *, disable_adapter: bool = False, **options: Any
    ) -> str:
        """Return the text with which the tuned model continues a prompt, without the prompt.

        prompt: a text, or messages ({role, content}) for the model's chat template. disable_adapter: with the
        base alone, as before training. options: of transformers' generate, such as do_sample=True.
        """
        options |= {"max_new_tokens": max_new_tokens}
        return continue_text(self._model, self._cwd / self.adapter_path, prompt, disable_adapter, options)

    @cached_property
    def _model(self) -> Any:
        return self.load_model()

    def _figures(self) -> dict[str, str]:
        """Return what the run came to, each with its heading."""
        summary = self.summary
        change = summary.get("perplexity_change")
        percent = "" if change is None else f" ({100 * change:+.1f} %)"
        shown = {
            "perplexity": f"{number(summary.get('perplexity_before'), 2)} → "
            f"{number(summary.get('perplexity'), 2)}{percent}",
            "accuracy %": f"{number(summary.get('accuracy_before'), 1, 100)} → "
            f"{number(summary.get('accuracy'), 1, 100)}",
            "rounds": str(summary["rounds"]),
            "MB": f"↑{megabytes(summary['bytes_up'])} ↓{megabytes(summary['bytes_down'])}",
            "time": clock(summary["training_seconds"] + summary["evaluation_seconds"]),
        }
        first = next((record.cuts for record in self.history if record.cuts), None) or {}
        last = self.history[-1].cuts if self.history else None
        if last:
            moved = [f"{first[n]}→{cut}" if first.get(n, cut) != cut else str(cut) for n, cut in last.items()]
            shown["cuts"] = ", ".join(moved[:12]) + (" …" if len(moved) > 12 else "")
        return shown

    def __repr__(self) -> str:
        figures = ", ".join(f"{key} {value}" for key, value in self._figures().items())
        return f"RunResult({str(self.output_dir)!r}: {figures})"

    def _repr_html_(self) -> str:
        """Return a small table, and the picture of the run's folder where there is one."""
        figures = self._figures() | {"folder": str(self.output_dir)}
        heads = "".join(f"<th style='text-align:left'>{html.escape(key)}</th>" for key in figures)
        cells = "".join(
            f"<td style='text-align:left'>{html.escape(value)}</td>" for value in figures.values()
        )
        table = f"<table><tr>{heads}</tr><tr>{cells}</tr></table>"
        picture = self._cwd / self.output_dir / "perplexity.png"
        if not picture.exists():
            return table
        data = base64.b64encode(picture.read_bytes()).decode()
        return (
            f"{table}<img alt='held-out perplexity by round' width='640' src='data:image/png;base64,{data}'>"
        )

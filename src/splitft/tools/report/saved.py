"""Tables as files: CSV for programs, LaTeX for papers. Pure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence

from splitft.common.figures import printable

_FORMULA = ("=", "+", "-", "@", "\t")  # what a spreadsheet would compute
_NUMBER = re.compile(r"[-+]?[\d.,]*\d(e[-+]?\d+)?")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
    "→": r"$\rightarrow$", "–": "--", "…": r"\ldots{}", "×": r"$\times$", "<": "$<$", ">": "$>$",
    "·": r"$\cdot$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "Δ": r"$\Delta$", "≤": r"$\leq$", '"': "''",
}  # fmt: skip


def csv_text(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as CSV; no cell is a formula, whatever a name holds. None is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(map(_cell, headings))
    writer.writerows(map(_cell, row) for row in rows)
    return file.getvalue()


def latex_text(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    bold: Collection[tuple[int, int]] = (),
    comment: str = "",
    caption: str = "",
    label: str = "",
) -> str:
    """Return a table as LaTeX with booktabs.

    A line end in a heading parts it in two lines. left: columns with texts. bold: (row, column) of cells.
    comment: stands above. caption, label: make it a float.
    """
    columns = "".join("l" if number in left else "r" for number in range(len(headings)))
    split = [heading.split("\n", 1) for heading in headings]
    lines = [" & ".join(latex(parts[0]) for parts in split) + r" \\"]
    if any(len(parts) > 1 for parts in split):
        units = [parts[1] if len(parts) > 1 else "" for parts in split]
        lines.append(" & ".join(latex(f"({unit})") if unit else "" for unit in units) + r" \\")
    lines = [rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", *lines, r"\midrule"]
    for number, row in enumerate(rows):
        cells = [latex(cell) for cell in row]
        cells = [rf"\textbf{{{cell}}}" if (number, k) in bold else cell for k, cell in enumerate(cells)]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if caption:
        told = rf"\caption{{{latex(caption)}}}" + (rf"\label{{{label}}}" if label else "")
        lines = [r"\begin{table}[t]", r"\centering", told, *lines, r"\end{table}"]
    above = [f"% {printable(line)}" for line in comment.splitlines()]
    return "\n".join([*above, *lines]) + "\n"


def latex(text: str) -> str:
    """Return a text for LaTeX; nothing in it is a command."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(text)).replace("$$", "")


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)
    harmless = not text.startswith(_FORMULA) or _NUMBER.fullmatch(text)
    return text if harmless else f"'{text}"

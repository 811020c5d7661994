"""Write docs/architectures.md: try every causal and vision-language type of transformers (takes minutes).

python docs/make_architectures.py
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from splitft.launch.check import VERDICTS, totals
from splitft.proof.every_type import check_all_architectures
from splitft.proof.split import SplitReport
from splitft.proof.targets import by_reason

PAGE = Path(__file__).with_name("architectures.md")

INTRODUCTION = """\
<!-- Written by docs/make_architectures.py; run it again after a change of transformers or of the check. -->
# Which architectures split and train

`splitft check --all-architectures` with transformers {transformers} and torch {torch}: a small random copy
of each type with a causal or a vision-language class (on text without images), float32 on a CPU; two padded
rows of unequal length; every cut; logits and loss bit-equal, gradients of all parameters equal to rounding
(1e-6 of the largest), and the same once more with front, trunk and tail. A type trains if it predicts next
tokens, LoRA can adapt layers of its blocks, a training step with these adapters is equal, too, and stock
peft loads them. A test trains every such type for three steps at two cuts, and compares losses and adapters
with those of stock peft on whole models (`pytest -m slow tests/invariant/test_types_train.py`).

| | types |
|---|---|
| split | {splits} |
| split and train | {trains} |
| all | {totals} |

Your own model: `splitft check MODEL`. A run checks again on the model itself before it trains.

"""

EXPLANATIONS = {
    "exact": "The server needs the activations and nothing else.",
    "exact with real ids": "Later blocks read the token ids or embeddings again, so the ids travel to the "
    "server; `labels: client` is refused for these types, since the ids are the text.",
    "splits only": "Whole and split are equal, and no job trains on these: in their default configuration "
    "they are no next-token models (a token sees later ones, or the loss is that of the token itself), or "
    "LoRA cannot train them.",
    "refused": "No job trains on these.",
    "could not be built": "No small copy of the default configuration could be built, so nothing is known; a "
    "particular model of the type may still pass `splitft check MODEL`.",
}


def page(reports: list[SplitReport]) -> str:
    """Return the page for these reports."""
    text = INTRODUCTION.format(
        transformers=version("transformers"),
        torch=version("torch").partition("+")[0],
        splits=sum(report.splits for report in reports),
        trains=sum(report.ok for report in reports),
        totals=totals(reports),
    )
    for verdict in VERDICTS:
        found = [report for report in reports if report.verdict == verdict]
        text += f"## {verdict[0].upper()}{verdict[1:]} ({len(found)})\n\n{EXPLANATIONS[verdict]}\n\n"
        if verdict == "exact":
            text += ", ".join(f"`{report.model_type}`" for report in found) + "\n\n"
            continue
        text += "| type | why |\n|---|---|\n"
        text += "".join(f"| `{r.model_type}` | {r.reason.replace('|', '/')} |\n" for r in found) + "\n"
    trained = [report for report in reports if report.ok]
    return text + targets_section(trained) + loss_section(trained)


def targets_section(trained: list[SplitReport]) -> str:
    """Return the default targets that LoRA cannot adapt."""
    text = (
        "## Default LoRA targets that are left out\n\nEvery other type takes peft's default targets, or all "
        "linear layers of its blocks where peft has none. Weights of fused experts are adapted where a job "
        "states them (`lora_target_parameters`).\n\n| type | LoRA on | not on |\n|---|---|---|\n"
    )
    for report in trained:
        if report.left_out:
            without = "; ".join(f"{names}: {why}" for why, names in by_reason(report.left_out).items())
            text += f"| `{report.model_type}` | {', '.join(report.targets)} | {without.replace('|', '/')} |\n"
    return text + "\n"


def loss_section(exact: list[SplitReport]) -> str:
    """Return how the types whose split is exact take their loss."""
    by_form = {
        form: [report for report in exact if report.head == form] for form in ("plain", "own", "whole")
    }
    names = ", ".join(f"`{report.model_type}`" for report in by_form["own"])
    text = (
        f"## The loss in chunks ({len(by_form['plain']) + len(by_form['own'])} of {len(exact)})\n\n"
        "For these, loss and gradient with `loss_chunk_tokens` are the model's own to rounding (1e-5 "
        f"relative). The logits of {len(by_form['own'])} are made by the model's own code after its head: "
        f"{names}.\n"
    )
    if not by_form["whole"]:
        return text
    text += "\nThe others take the model's own loss, over the full logits:\n\n| type | why |\n|---|---|\n"
    return text + "".join(
        f"| `{r.model_type}` | {r.head_reason.replace('|', '/')} |\n" for r in by_form["whole"]
    )


def main() -> None:
    """Check everything, and write the page."""

    def tell(report: SplitReport, done: int, total: int) -> None:
        print(f"{done:>4} of {total}  {report.model_type:28} {report.verdict}", flush=True)

    reports = check_all_architectures(tell)
    PAGE.write_text(page(reports), encoding="utf-8")
    print(totals(reports))


if __name__ == "__main__":
    main()

"""What a job's server will be able to read of the rows: pure, from the job's keys and recorded audits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from splitft.common.text import percent
from splitft.job.audited import LABELS, TEXT, Figure, figure_at
from splitft.job.settings import CostSettings

SERVER, CLIENTS = "the server", "clients"
AS_IT_IS = "as it is"
NOT_MEASURED = "not measured here"
_NEARLY_ALL, _MOST = 0.9, 0.5  # shares of tokens from which these words stand
YOURS = "`splitft audit` measures it for a job's own text"


@dataclass(frozen=True)
class Sent:
    """One thing that leaves a client: its receiver, and how much of the rows can be read from it."""

    what: str
    to: str
    readable: str


@dataclass(frozen=True)
class Exposure:
    """What a job lets its server read.

    Attributes:
        summary: One line.
        sentences: Two sentences, for a data owner.
        sent: Everything that leaves a client, in the order of what it tells.
    """

    summary: str
    sentences: str
    sent: tuple[Sent, ...]


def exposure(job: CostSettings, aggregator: str | None = None, blocks: int | None = None) -> Exposure:
    """Return what a job sends, to whom, and what can be read from it.

    Args:
        aggregator: HOST:PORT of the job's aggregator; None: the server averages.
        blocks: Of the model, where they are known.
    """
    averages = f"the aggregator ({aggregator})" if aggregator else SERVER
    match job.method:
        case "centralized":
            return Exposure(
                "everything: all rows lie in one place",
                "All rows lie in one place. Nothing about them is withheld from the party that trains.",
                (Sent("all rows", SERVER, AS_IT_IS),),
            )
        case "local_only":
            return Exposure(
                "nothing: no client sends anything",
                "Every client trains alone. Nothing leaves it.",
                (),
            )
        case "fed_lora":
            return _whole_models(job, averages)
        case _ if job.labels == "server":
            return _labels_sent(job, averages, blocks)
        case _:
            return _labels_at_home(job, averages, blocks)


def shallowest_cut(job: CostSettings) -> int:
    """Return the lowest cut that a job states or that its policy may choose: the one that tells most."""
    policy = job.cut_policy
    cuts = [*job.cuts] if isinstance(job.cuts, list) else [job.cuts]
    if job.method == "splitft" and policy.method == "schedule":
        for entry in (policy.schedule or {}).values():
            cuts += entry if isinstance(entry, list) else [entry]
    elif job.method == "splitft" and policy.method != "fixed":
        cuts.append(policy.min_cut)
    return min(cuts)


def read_words(figure: Figure) -> str:
    """Return how much of the tokens a figure is, in a word."""
    if figure.value >= _NEARLY_ALL:
        return "nearly all"
    return "most" if figure.value >= _MOST else "a part"


def _whole_models(job: CostSettings, averages: str) -> Exposure:
    """Return what a job of whole models sends: an adapter, masked or not, and counts, fewer with dp."""
    if job.secure_aggregation:
        adapter = f"Each client's adapter goes to {averages} masked in every round: only sums over 3 or more"
        adapter += " clients can be read"
        sent = Sent("the adapter of the whole model, masked, in every round", averages, "in sums alone")
        short = "masked adapters"
    else:
        adapter = f"Each client's adapter goes to {averages} in every round"
        sent = Sent("the adapter of the whole model, in every round", averages, NOT_MEASURED)
        short = "adapters"
    told = NOT_MEASURED
    if job.dp.active:
        told = "bounded by (ε, δ) for one row"
        sent = replace(sent, readable=told if not job.secure_aggregation else f"{sent.readable}, {told}")
    counts = "losses" if job.dp.active else "losses, lengths of rows"
    return Exposure(
        f"no text and no activations: clients train whole models, and send {short}, {counts}",
        "No activations, labels or token ids of any row are sent, of training rows or of held-out ones. "
        f"{adapter}, and {counts} and evaluation figures to the server; how much an adapter tells of its "
        f"rows is {told}.",
        (sent, Sent(f"{counts}, figures of held-out rows", SERVER, AS_IT_IS)),
    )


def _labels_sent(job: CostSettings, averages: str, blocks: int | None) -> Exposure:
    text = figure_at(TEXT, shallowest_cut(job))
    held_out = "token ids" if job.evaluates_at_server else "activations and labels"
    return Exposure(
        "the text: clients send their labels, which in language modelling are the text",
        "The server gets the text: labels of training rows travel as token ids, and so do held-out rows. "
        f"Without them it could still rebuild {read_words(text)} of it from the activations that it gets "
        f"({_share(text)}).",
        (
            Sent("labels of training rows", SERVER, f"{AS_IT_IS}: they are the text"),
            Sent(f"{held_out} of held-out rows", SERVER, f"{AS_IT_IS}: they are the text"),
            _activations(job, text, blocks),
            *_others(averages),
        ),
    )


def _labels_at_home(job: CostSettings, averages: str, blocks: int | None) -> Exposure:
    cut = shallowest_cut(job)
    text, labels = figure_at(TEXT, cut), figure_at(LABELS, cut)
    return Exposure(
        f"{read_words(text)} of the text if it computes to find out: an audit read {percent(text.value)} of "
        f"tokens from activations, {percent(labels.value)} of labels from gradients ({text.conditions})",
        "No label and no token id is sent, but from the activations of every row, held-out ones too, the "
        f"server can rebuild {read_words(text)} of the text if it computes to find out ({_share(text)}). "
        f"From gradients it can work out labels ({percent(labels.value)} in that audit); {YOURS}.",
        (
            _activations(job, text, blocks),
            Sent(
                "gradients of the tail, of every training row",
                SERVER,
                f"{percent(labels.value, 1)} of labels",
            ),
            *_others(averages),
        ),
    )


def _activations(job: CostSettings, figure: Figure, blocks: int | None) -> Sent:
    cut = shallowest_cut(job)
    after = f"{cut} block{'s' * (cut > 1)}" + (f" of {blocks}" if blocks else "")
    coded = f" as {job.codec}" if job.codec else ""
    once = ", once" if job.caches_activations else ""
    rows = "training rows" if job.evaluates_at_server else "every row"
    return Sent(
        f"activations of {rows} after {after}{coded}{once}",
        SERVER,
        f"{percent(figure.value, 1)} of tokens ({figure.attack}, {figure.conditions})",
    )


def _others(averages: str) -> tuple[Sent, ...]:
    return (
        Sent("adapters of the blocks that a client holds, in every round", averages, NOT_MEASURED),
        Sent("lengths of rows, norms of gradients, losses", SERVER, AS_IT_IS),
    )


def _share(figure: Figure) -> str:
    return f"an audit read {percent(figure.value)} of tokens: {figure.conditions}"

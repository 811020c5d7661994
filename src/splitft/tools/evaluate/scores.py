"""Scores of generated texts: exact match, ROUGE (rouge-score) and BLEU (sacrebleu)."""

from __future__ import annotations

from collections.abc import Sequence

from splitft.errors import JobError
from splitft.tools.evaluate.harness import EXTRA

ROUGE = ("rouge1", "rouge2", "rougeL")
METRICS = ("exact_match", *ROUGE, "bleu")


def check_scorers() -> None:
    """Raise JobError where a library is missing."""
    try:
        import rouge_score  # noqa: F401
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise JobError(
            f"--generate needs rouge-score and sacrebleu, one of which is missing ({error}): {EXTRA}"
        ) from None


def score(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the scores of texts against one reference each, as the libraries give them with their defaults.

    exact_match: share of texts equal to the reference but for white space at the ends. rouge1, rouge2,
    rougeL: mean F-measure, 0 to 1. bleu: of the corpus, 0 to 100. White space at the ends never counts.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu

    given, wanted = [text.strip() for text in texts], [text.strip() for text in references]
    scorer = RougeScorer(list(ROUGE))
    rouge = [scorer.score(reference, text) for text, reference in zip(given, wanted, strict=True)]
    return {
        "exact_match": sum(text == reference for text, reference in zip(given, wanted, strict=True))
        / len(given),
        **{name: sum(one[name].fmeasure for one in rouge) / len(rouge) for name in ROUGE},
        "bleu": float(corpus_bleu(given, [wanted]).score),
    }

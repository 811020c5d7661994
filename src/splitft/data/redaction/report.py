"""How much was redacted: one line for people, with counts and no text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitft.common.text import percent
from splitft.data.records import Records
from splitft.data.redaction.redaction import Redaction, Removed
from splitft.data.rows import Rows

Side = tuple[list[Rows], Removed | None]  # rows of each client, and what was redacted of their records


def redacted(redaction: Redaction | None, records: Records) -> tuple[Records, Removed | None]:
    """Return records without what is redacted of their texts, and counts of it."""
    return redaction.records(records) if redaction and redaction.config.of_texts else (records, None)


def without_rare(
    redaction: Redaction | None, train: list[Rows], held: list[Rows]
) -> tuple[list[Rows], list[Rows], int]:
    """Return each client's rows without tokens that are rare in them, and how many these were."""
    if redaction is None:
        return train, held, 0
    made, rare = [], 0
    for sides in zip(train, held, strict=True):
        kept, count = redaction.without_rare(sides)
        made.append(kept)
        rare += count
    return [rows for rows, _ in made], [rows for _, rows in made], rare


def redaction_notice(redaction: Redaction | None, sides: Sequence[Side], rare: int) -> list[str]:
    """Return the notice of what was redacted; none where nothing is to be.

    sides: the rows trained on and those held out, before rare tokens were redacted. rare: how many these are.
    """
    if redaction is None:
        return []
    places = removed = whole = used = 0
    for clients, gone in sides:
        for rows in clients:
            records, first = np.unique(rows.records, return_index=True)
            used += int(rows.lengths[first].sum())
            whole += int(rows.full_lengths[first].sum())
            if gone is not None:
                places += int(gone.places[records].sum())
                removed += int(gone.tokens[records].sum())
    parts = []
    if redaction.config.of_texts:
        share = removed / max(1, whole - places + removed)
        parts.append(f"{removed:,} tokens of {places:,} spans ({percent(share, 1)} of the rows)")
    if redaction.config.rare_tokens:
        most = redaction.config.rare_tokens
        parts.append(
            f"{rare:,} tokens that stand at most {most} times here ({percent(rare / max(1, used), 1)})"
        )
    return [f"redacted: {' and '.join(parts)}; one neutral token is in the place of each run of them"]

"""The contract of a codec."""

from __future__ import annotations

from collections.abc import Callable

import torch

from splitft.testing.contract import contract, require
from splitft.wire.codecs.checked import Checked
from splitft.wire.codecs.codec import Codec

_BATCHES = ((1,), (5, 1, 9), (7, 7), (64,))  # lengths of samples


def check_codec(make: Callable[[], Codec], width: int = 32) -> None:
    """Check a codec as it is registered: forms, values, and that it keeps no state.

    For rows of several batches, random, zero, and large by far in one column: parts are as the layout says,
    rows come back in their shape, finite, and nearer to what was sent than zeros are; what was given is not
    written to; the same rows give the same parts. A value that is no number raises ValueError.

    width: hidden size of the rows.
    """
    codec = Checked("under test", make())
    generator = torch.Generator().manual_seed(0)
    for lengths in _BATCHES:
        rows = torch.randn(sum(lengths), width, generator=generator)
        peaked = rows.clone()
        peaked[:, 0] *= 1000
        for given in (rows, torch.zeros_like(rows), peaked, rows.bfloat16()):
            before = given.clone()
            with contract():
                parts = codec.encode(given, lengths)
                back = codec.decode(parts, lengths, width)
                again = codec.encode(given, lengths)
            require(torch.equal(given, before), "encode wrote into the rows that it was given")
            same = all(torch.equal(one, other) for one, other in zip(parts, again, strict=True))
            require(same, "encode gave other parts for the same rows: a codec must not keep a state")
            lost = float((back - given.float()).norm())
            whole = float(given.float().norm())
            require(lost <= whole, f"an error of length {lost:.3g} in rows of length {whole:.3g}")
    spoilt = torch.ones(3, width)
    spoilt[1, 0] = float("nan")
    try:
        codec.encode(spoilt, (3,))
    except ValueError:
        return
    raise AssertionError("encode took a value that is not a number, and must raise ValueError")

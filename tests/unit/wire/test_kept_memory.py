"""What is kept of samples takes the memory that the job allows, also where samples are of one token."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from splitft.wire.codecs.rows import RowCodec
from splitft.wire.memory.frozen import FrozenMemory
from splitft.wire.messages import Activations

WIDTH, ALLOWED = 64, 10_000_000


def resident() -> int:
    """Return the bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def held_by_tensors() -> int:
    """Return the bytes of all storages that some tensor of this process holds."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def test_samples_of_one_token_take_no_more_than_is_allowed() -> None:
    """A sample's tensors take far more than its values: 6 times the limit where these alone count."""
    memory, codec, before = FrozenMemory(ALLOWED, WIDTH), RowCodec(None, WIDTH), resident()
    sent = 0
    while len(memory._kept) == sent:
        ids = torch.zeros(8, dtype=torch.int32)
        samples, hidden = tuple(range(sent, sent + 8)), torch.randn(8, WIDTH)
        batch = Activations(1, 0, 0, True, (1,) * 8, hidden, ids, samples=samples)
        memory.unpack(batch, codec)
        sent += 8
    assert sent > 1000
    assert resident() - before < 2 * ALLOWED


def test_a_sample_that_is_kept_keeps_no_batch() -> None:
    """A hundredth of each batch is remembered; the rest finds no room, and goes."""
    memory, codec = FrozenMemory(1_000_000, WIDTH), RowCodec(None, WIDTH)
    before = held_by_tensors()
    for number in range(60):
        lengths = (1, 4000)
        ids = torch.zeros(sum(lengths), dtype=torch.int32)
        hidden, samples = torch.randn(sum(lengths), WIDTH), (2 * number, 2 * number + 1)
        memory.unpack(Activations(1, 0, 0, True, lengths, hidden, ids, samples=samples), codec)
        del ids, hidden
    assert len(memory._kept) == 60
    assert held_by_tensors() - before < 1_000_000, "a batch has 1 MB"

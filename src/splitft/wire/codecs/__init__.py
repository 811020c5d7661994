"""Codecs: what activations and gradients look like on the wire.

codec: the protocol. bf16, groups (int8), lowbit (int4, int3, int2): one codec a file, pure and stateless;
bits, rotation: what they are made of. delta: differences against what both ends keep of a sample. choice,
auto: codecs chosen from a job's first batches. shapes: a codec's form alone, for plans. registry: codecs by
name, a user's own among them. channel: where they are applied, at both ends of the way between a client and
the server.
"""

from __future__ import annotations

from splitft.wire.codecs.codec import Codec, Part
from splitft.wire.codecs.registry import codec_names, make_codec, register_codec

__all__ = ["Codec", "Part", "codec_names", "make_codec", "register_codec"]

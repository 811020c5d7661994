"""Codecs: what activations and gradients look like on the wire. One codec a file, pure and stateless."""

from __future__ import annotations

from splitft.wire.codecs.codec import Codec, Part
from splitft.wire.codecs.registry import codec_names, make_codec, register_codec

__all__ = ["Codec", "Part", "codec_names", "make_codec", "register_codec"]

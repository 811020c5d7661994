"""The server's memory of samples as its checkpoints hold it: sealed with a key that the client alone keeps.

Kept activations can be inverted to the text that they are of. So a client lends its key to a running
server, which seals with it what it writes down, and after a restart opens that once the client is back.
AES-256-GCM.
"""

from __future__ import annotations

import json
import secrets

import numpy as np
import safetensors.torch
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from torch import Tensor

from splitft.common.state import State, pack, unpack

KEY_BYTES, NONCE_BYTES = 32, 12
PIECE = 1 << 26  # bytes that are sealed at once
_VALUES = "values"


def new_key() -> str:
    """Return a key, as text."""
    return secrets.token_hex(KEY_BYTES)


def is_key(text: str) -> bool:
    """Whether a text is a key as `new_key` makes them."""
    return len(text) == 2 * KEY_BYTES and set(text) <= set("0123456789abcdef")


def sealed(state: State, key: str, name: str) -> list[Tensor]:
    """Return a state as pieces of bytes, uint8, that tell nothing but their size.

    Args:
        key: As of `new_key`.
        name: The client: another one's pieces do not open in their place.
    """
    values, tensors = pack(state)
    content = safetensors.torch.save(tensors, metadata={_VALUES: json.dumps(values)})
    parts = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
    cipher, pieces = AESGCM(bytes.fromhex(key)), []
    for number, part in enumerate(parts):
        nonce = secrets.token_bytes(NONCE_BYTES)
        piece = nonce + cipher.encrypt(nonce, part, _place(name, number, len(parts)))
        pieces.append(torch.from_numpy(np.frombuffer(piece, np.uint8).copy()))
    return pieces


def opened(pieces: list[Tensor], key: str, name: str) -> State:
    """Undo `sealed`. Raises ValueError where pieces are damaged, another client's, or sealed otherwise."""
    cipher, content = AESGCM(bytes.fromhex(key)), bytearray()
    for number, piece in enumerate(pieces):
        sent = piece.numpy().tobytes()
        try:
            content += cipher.decrypt(
                sent[:NONCE_BYTES], sent[NONCE_BYTES:], _place(name, number, len(pieces))
            )
        except (InvalidTag, ValueError):
            raise ValueError(f"what is kept of {name}'s samples does not open with its key") from None
    tensors = safetensors.torch.load(bytes(content))
    length = int.from_bytes(content[:8], "little")  # of safetensors' header
    header = json.loads(bytes(content[8 : 8 + length]))
    state: State = unpack(json.loads(header["__metadata__"][_VALUES]), tensors)
    return state


def _place(name: str, number: int, of: int) -> bytes:
    return json.dumps([name, number, of]).encode()

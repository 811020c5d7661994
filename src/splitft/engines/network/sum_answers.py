"""Answers of clients in a masked sum: checked, and as the keys and shares that they carry."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from splitft.engines.network.control import Said
from splitft.engines.network.sum_messages import (
    KeysStated,
    SharesAsked,
    SharesRevealed,
    SharesSealed,
    SurvivorsSigned,
    pairs_of,
    to_bytes,
    to_tensor,
)
from splitft.engines.network.transport.signing import MOST_CERTIFICATE_BYTES, MOST_SIGNATURE_BYTES
from splitft.wire.secagg.masks import KEY_BYTES
from splitft.wire.secagg.roll import Roll, RoundKeys
from splitft.wire.secagg.shamir import SHARE_BYTES

MOST_SEALED_BYTES = 2 * SHARE_BYTES + 16  # with the tag of AES-GCM


@dataclass(frozen=True)
class AnswerCheck:
    """Checks answers.

    Attributes:
        rows: The clients of the round, and their weights by the server's count.
        known: All clients of the run.
    """

    rows: Mapping[str, int]
    known: Collection[str]

    def __call__(self, name: str, message: Said) -> None:
        """Raise ValueError where an answer cannot be that of an honest client."""
        match message:
            case KeysStated():
                keys_of(message)
                if not {*message.bound} <= {*self.known}:
                    raise ValueError("bound: names of nobody in this run")
                if message.weight != self.rows[name]:
                    raise ValueError(
                        f"weight: {message.weight} tokens, where {self.rows[name]} were seen in the round"
                    )
            case SharesSealed():
                shares_of(message)
            case SurvivorsSigned():
                to_bytes(message.signature, MOST_SIGNATURE_BYTES)
            case SharesRevealed():
                shares_of(message)


def keys_of(message: KeysStated) -> RoundKeys:
    """Return the keys of a client. Raises ValueError where they are none."""
    keys = [to_bytes(key, KEY_BYTES) for key in (message.mask_key, message.seal_key, message.commitment)]
    if any(len(key) != KEY_BYTES for key in keys):
        raise ValueError("keys of another length")
    certificate = to_bytes(message.certificate, MOST_CERTIFICATE_BYTES)
    signature = to_bytes(message.signature, MOST_SIGNATURE_BYTES)
    return RoundKeys(keys[0], keys[1], keys[2], message.weight, certificate, signature)


def shares_of(message: SharesSealed | SharesRevealed) -> dict[str, bytes]:
    """Return {client: share}. Raises ValueError where they are none."""
    if isinstance(message, SharesSealed):
        return pairs_of(message.clients, message.sealed, MOST_SEALED_BYTES)
    return pairs_of(message.clients, message.shares, SHARE_BYTES)


def roll_message(round_: int, attempt: int, roll: Roll) -> SharesAsked:
    """Return the keys of all clients as one message."""
    return SharesAsked(
        round_,
        attempt,
        clients=tuple(roll),
        mask_keys=tuple(to_tensor(keys.mask_key) for keys in roll.values()),
        seal_keys=tuple(to_tensor(keys.seal_key) for keys in roll.values()),
        commitments=tuple(to_tensor(keys.commitment) for keys in roll.values()),
        weights=tuple(keys.weight for keys in roll.values()),
        certificates=tuple(to_tensor(keys.certificate) for keys in roll.values()),
        signatures=tuple(to_tensor(keys.signature) for keys in roll.values()),
    )


def roll_of(message: SharesAsked) -> dict[str, RoundKeys]:
    """Undo `roll_message`. Raises ValueError where it is none."""
    names, weights = message.clients, message.weights
    mask_keys = pairs_of(names, message.mask_keys, KEY_BYTES)
    seal_keys = pairs_of(names, message.seal_keys, KEY_BYTES)
    commitments = pairs_of(names, message.commitments, KEY_BYTES)
    certificates = pairs_of(names, message.certificates, MOST_CERTIFICATE_BYTES)
    signatures = pairs_of(names, message.signatures, MOST_SIGNATURE_BYTES)
    if len(weights) != len(names):
        raise ValueError(f"{len(weights)} weights for {len(names)} clients")
    return {
        name: RoundKeys(
            mask_keys[name], seal_keys[name], commitments[name], weight, certificates[name], signatures[name]
        )
        for name, weight in zip(names, weights, strict=True)
    }

"""Sameness: what server and clients must have in common, as texts that both sides compare.

Equal: the weights of every block that both hold, the model's configuration, the tokenizer, the chat template.
May differ, and is recorded: versions of packages.
"""

from __future__ import annotations

from collections.abc import Mapping

VERSION = "version "  # before the name of a package
_SHOWN = 3  # things that differ, in one line
Facts = Mapping[str, str]  # {thing: its value or digest}


def facts_of(things: tuple[str, ...], values: tuple[str, ...]) -> dict[str, str]:
    """Return the facts of a message, as far as they are pairs."""
    return dict(zip(things, values, strict=False))


def difference(client: Facts, server: Facts) -> str:
    """Return what must be equal and is not, with both values; empty where all that both state is equal."""
    apart = [
        f"{thing}: {client[thing][:80]}, at the server {server[thing][:80]}"
        for thing in client
        if thing in server and client[thing] != server[thing] and not thing.startswith(VERSION)
    ]
    more = f" and {len(apart) - _SHOWN} more" if len(apart) > _SHOWN else ""
    return "; ".join(apart[:_SHOWN]) + more


def versions(parties: Mapping[str, Facts]) -> dict[str, dict[str, str]]:
    """Return {party: {package: version}} of the parties that state any."""
    return {
        name: {thing.removeprefix(VERSION): v for thing, v in facts.items() if thing.startswith(VERSION)}
        for name, facts in parties.items()
        if facts
    }

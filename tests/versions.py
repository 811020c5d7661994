"""Tests that ask for a release of a library, or for a model type that older releases lack."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version
from transformers import CONFIG_MAPPING


def since(library: str, release: str, reason: str) -> pytest.MarkDecorator:
    """Skip a test where an older release of a library is installed."""
    old = Version(Version(version(library)).base_version) < Version(release)
    return pytest.mark.skipif(old, reason=f"{library} before {release}: {reason}")


def known_types(*names: str) -> list[object]:
    """Return model types as parameters; those that the installed transformers lacks are skipped."""
    lacking = pytest.mark.skip("the installed transformers has no such model type")
    return [name if name in CONFIG_MAPPING else pytest.param(name, marks=lacking) for name in names]

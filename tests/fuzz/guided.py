"""`python -m fuzz.guided TARGET [libFuzzer's options]`: inputs that reach new code are mutated further.

Needs atheris (`pip install atheris`, Linux and macOS), which is no dependency of the tests.
"""

from __future__ import annotations

import random
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MISSING = "atheris is not installed, and nothing was fuzzed: `pip install atheris`, or use `python -m fuzz`"
SEEDS = 50  # generated inputs beside the corpus


def main() -> int:
    """Fuzz a target until it fails, or libFuzzer's options end it."""
    if find_spec("atheris") is None:
        print(MISSING)
        return 0
    import atheris

    # Modules are instrumented as they are imported: before any other import of splitft.
    with atheris.instrument_imports(include=["splitft"]):
        from fuzz.targets import TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print(f"usage: python -m fuzz.guided TARGET [options]; targets: {', '.join(sorted(TARGETS))}")
        return 2
    name = sys.argv.pop(1)
    options = [one for one in sys.argv[1:] if one.startswith("-")]
    found = [one for one in sys.argv[1:] if not one.startswith("-")]
    with tempfile.TemporaryDirectory() as made:
        seeds = write_seeds(name, Path(made))
        arguments = [
            sys.argv[0],
            *options,
            *(found or [tempfile.mkdtemp(prefix=f"fuzz-{name}-")]),
            str(seeds),
        ]
        atheris.Setup(arguments, guided(name), custom_mutator=mutator(name, atheris.Mutate))
        atheris.Fuzz()
    return 0


def write_seeds(name: str, folder: Path) -> Path:
    """Write the corpus of a target, and some generated inputs, as libFuzzer reads them."""
    from fuzz.corpora import corpus
    from fuzz.targets import target

    rng = random.Random(0)
    generated = {f"generated-{number}": target(name).generate(rng) for number in range(SEEDS)}
    for stem, data in {**corpus(name), **generated}.items():
        (folder / stem).write_bytes(data)
    return folder


def guided(name: str) -> Any:
    """Return the function that libFuzzer calls with each input."""
    from fuzz.inputs import Tally, try_one
    from fuzz.targets import target

    tally = Tally()

    def test_one_input(data: bytes) -> None:
        try_one(target(name), data, tally)

    return test_one_input


def mutator(name: str, by_bytes: Any) -> Any:
    """Return a mutator: of bytes, as libFuzzer's own, or an input of another structure in their place."""
    from fuzz.targets import target

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(by_bytes(data, max_size))
        return target(name).generate(rng)[:max_size]

    return mutate


if __name__ == "__main__":
    raise SystemExit(main())

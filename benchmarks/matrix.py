"""Install SplitFT with old, pinned and new libraries, on each Python, and run the short suite in each.

    python benchmarks/matrix.py [LEG ...] [--folder .venvs-matrix] [--torch LEG=REQUIREMENT ...] [--keep]

| leg | libraries |
|---|---|
| lowest | each at the lower bound of pyproject.toml; all that they need in turn: pip's choice |
| 3.10 to 3.13 | those of constraints.txt, on that Python |
| newest | pip's choice |

Each leg has an environment of its own in FOLDER, made anew, and removed when its suite is over unless --keep
is given. Interpreters are `python3.10` and so on, found by PATH. Options of pip come from its configuration
(PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, …); --torch names another requirement of torch for a leg: a wheel, say.
Results go to benchmarks/results/matrix.json; those of all legs so far make docs/versions.md. A leg that has
no interpreter, or cannot be installed, stands there as such. The exit code is 1 where a leg failed, or could
not be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "matrix.json"
PAGE = ROOT / "docs" / "versions.md"
LEGS = {"lowest": "3.10", "3.10": "3.10", "3.11": "3.11", "3.12": "3.12", "3.13": "3.13", "newest": "3.13"}
SHOWN = (
    "torch",
    "transformers",
    "peft",
    "huggingface_hub",
    "tokenizers",
    "datasets",
    "numpy",
    "pydantic",
    "typer",
)
_BOUND = re.compile(r'^\s*"([A-Za-z0-9_-]+)>=([0-9.]+)"', re.MULTILINE)
_VERSIONS = """\
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": sys.version.split()[0]}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = ""
print(json.dumps(found))
"""
_INTRODUCTION = """\
<!-- Written by benchmarks/matrix.py; run it again after a change of pyproject.toml or constraints.txt. -->
# Tested versions

`make test-matrix` installs SplitFT in an environment for each leg and runs the short suite (`tests/matrix`):
`splitft check`, a run of two clients in one process, the same between a server and two client processes, and
the export loaded and merged by stock peft. *lowest*: every library at the lower bound of `pyproject.toml`;
*3.10* to *3.13*: those of `constraints.txt`; *newest*: pip's choice. *adapter*: the start of its SHA-256;
runs are on a CPU, with one thread.

"""
_LIMITS = """
The whole test suite runs with the libraries of `constraints.txt`. With older ones:

- torch 2.6 adds up in another order: `--torch lowest=torch==2.13.0` gives the lowest set the other legs'
  adapter.
- torch 2.6 shares keys and values among heads by another kernel: there a bfloat16 base keeps transformers'
  own backward of attention.
- Before transformers 5.21 OPT's forward cannot be traced without values: plans take an upper estimate of its
  memory and time.
- Before transformers 5.15 the table of rotary angles counts as a matrix product, 0.01 % of a step.
"""


def lower_bounds() -> dict[str, str]:
    """Return {library: lower bound} of the project's dependencies."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    start = text.index("\ndependencies = [")
    return dict(_BOUND.findall(text[start : text.index("\n]", start)]))


def run_leg(leg: str, folder: Path, torch: str | None, keep: bool) -> dict[str, Any]:
    """Install a leg and run its suite; return its result, versions and the adapter's digest."""
    interpreter = find_interpreter(LEGS[leg])
    if interpreter is None:
        return {"result": f"not run: no python{LEGS[leg]} was found"}
    environment, python = folder / leg, folder / leg / "bin" / "python"
    shutil.rmtree(environment, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Libraries, the project, and pytest.
        log = folder / f"{leg}.log"
        with log.open("w") as out:
            calls = [[interpreter, "-m", "venv", environment], *installs(leg, python, folder, torch)]
            for call in calls:
                if subprocess.run(call, stdout=out, stderr=out, cwd=ROOT).returncode:
                    return {"result": f"not installed: {last_error(log)}"}
        # The suite.
        digest = folder / f"{leg}.sha256"
        digest.unlink(missing_ok=True)
        settings = {"SPLITFT_MATRIX": str(digest), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        suite = [python, "-m", "pytest", "-m", "matrix", "tests/matrix"]
        with log.open("a") as out:
            failed = subprocess.run(
                suite, stdout=out, stderr=out, cwd=ROOT, env=os.environ | settings
            ).returncode
        versions = subprocess.check_output([python, "-c", _VERSIONS, *SHOWN], text=True)
        adapter = digest.read_text()[:12] if digest.exists() else ""
        return {"result": "failed" if failed else "passed", "adapter": adapter, **json.loads(versions)}
    finally:
        if not keep:
            shutil.rmtree(environment, ignore_errors=True)


def find_interpreter(version: str) -> str | None:
    """Return an interpreter of this version, or None."""
    name = f"python{version}"
    found = sys.executable if sys.version.startswith(f"{version}.") else shutil.which(name)
    if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
        return found
    return None


def installs(leg: str, python: Path, folder: Path, torch: str | None) -> list[list[str | Path]]:
    """Return the commands that fill an environment."""
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    bounds = {name: version for name, version in lower_bounds().items() if not (torch and name == "torch")}
    constraints = folder / "lowest.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in bounds.items()))
    chosen: list[str | Path] = []
    if leg == "lowest":
        chosen = ["--constraint", constraints]
    elif leg != "newest":
        chosen = ["--constraint", ROOT / "constraints.txt"]
    calls = [[*pip, torch]] if torch else []
    return [*calls, [*pip, *chosen, "--editable", ".", "pytest", "packaging"]]


def last_error(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if "ERROR" in line]
    return lines[-1].replace("|", "/")[:120] if lines else "see its log"


def write_page(results: dict[str, dict[str, Any]]) -> None:
    """Write the table of all legs that have a result."""
    columns = ("python", *SHOWN)
    lines = [f"| leg | result | adapter | {' | '.join(columns)} |", "|---" * (len(columns) + 3) + "|"]
    for leg in LEGS:
        row = results.get(leg, {"result": "not run"})
        values = [row["result"], f"`{row['adapter']}`" if row.get("adapter") else ""]
        lines.append(f"| {leg} | {' | '.join([*values, *(row.get(name, '') for name in columns)])} |")
    PAGE.write_text(_INTRODUCTION + "\n".join(lines) + "\n" + _LIMITS, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("legs", nargs="*", metavar="LEG", help=f"of {', '.join(LEGS)}; default: all")
    parser.add_argument("--folder", type=Path, default=ROOT / ".venvs-matrix")
    parser.add_argument("--torch", action="append", default=[], metavar="LEG=REQUIREMENT")
    parser.add_argument("--keep", action="store_true", help="leave the environments there")
    options = parser.parse_args()
    if unknown := [leg for leg in options.legs if leg not in LEGS]:
        parser.error(f"no leg is called {', '.join(unknown)}: choose from {', '.join(LEGS)}")
    torch = dict(pair.split("=", 1) for pair in options.torch)
    failed = False
    for leg in options.legs or LEGS:
        found = run_leg(leg, options.folder.resolve(), torch.get(leg), options.keep)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[leg] = found
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1))
        write_page(results)
        failed |= found["result"].startswith(("failed", "not installed"))
        print(f"{leg}: {found['result']} {found.get('adapter', '')}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

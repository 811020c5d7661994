"""Python code in processes with an environment of their own.

They are forked from a process that has imported torch and other large libraries, but none that reads the
environment as it is imported (the hub's client, transformers, datasets): a start takes a third of the time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from commands import start_process

_PARENT = """
import gc, json, os, sys
gc.disable()
import pandas, pyarrow.dataset, torch._dynamo, torch.distributed.tensor, torch.export
gc.freeze()
gc.enable()
for line in sys.stdin:
    code, arguments, environment, files = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})
    break
"""


def run_code(code: str, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python code as `python -c CODE ARGUMENTS` does; return its exit code and its output."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        parent = _parent()
        assert parent.stdin and parent.stdout
        print(
            json.dumps([code, arguments, environment, list(map(str, files))]), file=parent.stdin, flush=True
        )
        answer = parent.stdout.readline()
        told = (path.read_text(encoding="utf-8") for path in files)
        return subprocess.CompletedProcess(arguments, int(answer), *told)


@cache
def _parent() -> subprocess.Popen[str]:
    """The process that others are forked from; it ends with this one, as its input does."""
    pipe = subprocess.PIPE
    return start_process([sys.executable, "-c", _PARENT], stdin=pipe, stdout=pipe, encoding="utf-8")

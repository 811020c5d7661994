"""Promises of the command line: exit codes, messages, light imports, and files that are never overwritten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from commands import run_process, start_process
from forks import run_command
from splitft import errors
from splitft.common.draining import DRAINED
from splitft.job.recipes import recipe_path, recipes
from splitft.launch.cli import EXIT_CODES, INCOMPLETE, app

# Everything else is a key of the job: KEY=VALUE. A flag more or less is a decision, not an accident.
LOG = {"--log-format", "--log-file"}
WATCHED = {"--health", "--metrics"}  # by other programs
FLAGS: dict[str, set[str]] = {
    "": {"--version"},
    "demo": set(),
    "watch": {"--listen", "--token", "--host"},
    "new": set(),
    "schema": set(),
    "run": {"--resume", "--live", "--live-listen", "--readable", "--plugin"},
    "server": {
        "--listen", "--certs", "--token-file", "--tokens", "--insecure", "--resume", "--admit", "--live",
        "--live-listen", "--plugin", "--end", *LOG, *WATCHED,
    },
    "aggregator": {
        "--listen", "--folder", "--certs", "--token-file", "--insecure", "--plugin", *LOG, *WATCHED,
    },
    "client": {
        "--server", "--name", "--data", "--eval-data", "--job-data", "--model", "--folder", "--certs",
        "--ca", "--token", "--insecure", "--policy", "--accept", "--plugin", *LOG, "--metrics", "--readable",
    },
    "check": {"--cuts", "--all-architectures", "--plugin"},
    "plan": {"--codecs", "--out", "--plugin"},
    "audit": {"--rows", "--longest", "--run", "--public", "--prior", "--out", "--fail-above", "--plugin"},
    "compare": {"--methods", "--vary", "--seeds", "--out", "--parallel", "--plugin"},
    "report": {"--out", "--title", "--reference", "--paper", "--audit-samples"},
    "export": {"--merge"},
    "evaluate": {
        "--tasks", "--include-path", "--limit", "--num-fewshot", "--apply-chat-template", "--generate",
        "--max-new-tokens", "--max-samples", "--data", "--name", "--batch-size", "--base", "--no-base",
        "--model", "--dtype", "--output", "--plugin",
    },
}  # fmt: skip
HEAVY = ("torch", "transformers", "peft", "datasets", "matplotlib", "numpy", "yaml", "splitft.job")
# Runs the console entry point with a `splitft.running.runner` whose run() does as the test says: the mapping
# of errors to exit codes is the command line's own promise, whatever raises them.
STAGED = """
import sys, types
module = types.ModuleType("splitft.running.runner")
sys.modules["splitft.running.runner"] = module
exec({body!r}, module.__dict__)
import splitft.common.startup
splitft.common.startup.import_libraries = lambda: None
from splitft.launch.cli import main
sys.argv = ["splitft", "run", "quickstart"]
main()
"""


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "200", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    return run_process([sys.executable, *arguments], env=env, timeout=60)


def installed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command; where not its start is tested, `run_command` is quicker."""
    return python(Path(sys.executable).with_name("splitft"), *arguments)


def staged(body: str) -> subprocess.CompletedProcess[str]:
    return python("-c", STAGED.format(body=body))


# Help


def test_help_names_commands_and_every_exit_code() -> None:
    done = installed("--help")
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    assert all(f" {command} " in told for command in FLAGS if command)
    assert "--version" in told
    assert all(f"{code} {meaning}" in told for code, meaning in EXIT_CODES.items())
    assert "completion" not in told
    assert "Usage" in installed().stdout


def test_every_error_class_has_a_documented_exit_code() -> None:
    classes = errors.SplitFTError.__subclasses__()
    assert len(classes) == 8
    codes = [error.exit_code for error in classes]
    assert len(set(codes)) == len(codes)
    assert set(codes) | {0, 1, INCOMPLETE, 130, DRAINED} == set(EXIT_CODES)


def test_a_command_has_these_flags_and_no_others() -> None:
    named = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named == set(FLAGS) - {""}
    for command, flags in FLAGS.items():
        page = run_command(*([command] if command else []), "--help").stdout
        told = {word.strip(",.:") for word in page.split() if word.startswith("--")}
        assert told == flags | {"--help"}, command
        # Options of lm-eval; at a client: its data, its way to the server, its owner's word, log and figures.
        assert len(told) <= {"evaluate": 18, "client": 19, "server": 16}.get(command, 12)


@pytest.mark.parametrize(("command", "wanted"), [
    ("plan", ("without training", "KEY=VALUE", "plan.json and plan.png")),
    ("compare", ("Resumable", "same_split,splitft,makespan", "lora_r_cut=[4,8,16]", "runs/compare-JOB")),
    ("report", ("no network", "RUN", "report.html")),
])  # fmt: skip
def test_help_of_a_command_says_what_to_write(command: str, wanted: tuple[str, ...]) -> None:
    told = " ".join(run_command(command, "--help").stdout.replace("│", " ").split())
    missing = [words for words in wanted if words not in told]
    assert not missing, told


@pytest.mark.parametrize("arguments", [["--help"], *([c, "--help"] for c in FLAGS if c), ["new"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    heavy = HEAVY[:-2] if arguments == ["new"] else HEAVY  # recipes lie in the package of the job's keys
    code = (
        "import sys\n"
        "from splitft.launch.cli import main\n"
        f"sys.argv = ['splitft', *{arguments!r}]\n"
        "try:\n    main()\n"
        f"finally:\n    print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_version() -> None:
    assert installed("--version").stdout == f"splitft {version('splitft')}\n"


# new and schema


def test_new_lists_the_recipes() -> None:
    done = run_command("new")
    assert done.returncode == 0
    for name, description in recipes().items():
        assert any(line.startswith(name) and line.endswith(description) for line in done.stdout.splitlines())


def test_new_copies_a_recipe_and_never_overwrites(tmp_path: Path) -> None:
    done = run_command("new", "quickstart", cwd=tmp_path)
    copy = tmp_path / "quickstart.yaml"
    assert done.returncode == 0
    assert "splitft run quickstart.yaml" in done.stdout
    assert copy.read_text(encoding="utf-8") == recipe_path("quickstart").read_text(encoding="utf-8")

    copy.write_text("mine")
    for again in (run_command("new", "quickstart", cwd=tmp_path), run_command("new", "files", copy)):
        assert again.returncode == 5
        assert "is there already" in again.stderr
        assert copy.read_text() == "mine"

    link = tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "target.yaml")
    assert run_command("new", "files", link).returncode == 5
    assert not (tmp_path / "target.yaml").exists()


def test_new_takes_a_path_a_folder_and_makes_folders(tmp_path: Path) -> None:
    assert run_command("new", "files", tmp_path / "a" / "b" / "job.yaml").returncode == 0
    assert (tmp_path / "a" / "b" / "job.yaml").is_file()
    assert run_command("new", "files", tmp_path).returncode == 0
    assert (tmp_path / "files.yaml").is_file()
    done = run_command("new", "files", tmp_path / "files.yaml" / "job.yaml")
    assert (done.returncode, "cannot be written" in done.stderr) == (5, True)


def test_new_refuses_an_unknown_recipe(tmp_path: Path) -> None:
    done = run_command("new", "quikstart", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "did you mean quickstart?" in done.stderr


def test_schema_is_json() -> None:
    schema = json.loads(run_command("schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "model_name_or_path" in schema["properties"]


# Usage errors and job errors: exit code 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chek"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "quickstart", "--fast"], "No such option"),
        (["check"], "give either a MODEL or --all-architectures"),
        (["check", "m", "--all-architectures"], "give either a MODEL or --all-architectures"),
        (["check", "--all-architectures", "--cuts", "1"], "--cuts goes with a MODEL"),
        (["check", "m", "--cuts", "1,x"], "--cuts 1,x: write numbers"),
        (["check", "m", "--cuts", "0"], "--cuts 0: write numbers"),
        (["check", "m", "--cuts", ""], "write numbers"),
        (["plan"], "Missing argument"),
        (["plan", "quickstart", "--clients", "9"], "clients is a key of the job, written clients=VALUE"),
        (["plan", "none.yaml"], "error: there is no file none.yaml"),
        (["compare"], "Missing argument"),
        (["compare", "none.yaml"], "there is no file none.yaml"),
        (["compare", "quickstart", "--methods", "fedlora"], "did you mean fed_lora?"),
        (["compare", "quickstart", "--seeds", "six"], "Invalid value for '--seeds'"),
        (["report"], "Missing argument"),
        (["report", "none"], "error: none"),
        (["run", "none.yaml"], "error: there is no file none.yaml"),
        (["run", "quickstart", "rounds"], "rounds: an override is written key=value"),
        (["run", "quickstart", "rouns=3"], "did you mean rounds?"),
    ],
)
def test_a_wrong_command_line_exits_2(arguments: list[str], told: str) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_all_problems_of_a_job_are_told_in_plain_text(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("model_name_or_path: m\nroundz: 3\nseed: '1'\n")
    done = run_command("run", job, "lora_r_cut=99")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error: {job}: 4 problems",
        "  seed: must be an integer ≥ 0 and ≤ 4294967295, not the string '1'",
        "  roundz: unknown key; did you mean rounds?",
        "  dataset_name: no data: set dataset_name (e.g. builtin:sotu) or data_files",
        "  lora_r_cut: 99 is more than lora_r (16)",
    ]  # and no colour codes, since it is no terminal


# Errors of a run


@pytest.mark.parametrize("name", [
    "JobError", "DataError", "ModelError", "OutputError", "NetworkError", "DivergedError"
])  # fmt: skip
def test_an_expected_error_exits_with_its_code_and_message(name: str) -> None:
    done = staged(
        f"from splitft import errors\ndef run(job, resume, meter): raise errors.{name}('what [to] do')"
    )
    assert done.returncode == getattr(errors, name).exit_code
    assert done.stderr == "error: what [to] do\n"


def test_an_unexpected_error_shows_its_traceback_and_how_to_report() -> None:
    done = staged("def run(job, resume, meter): raise ZeroDivisionError('deep inside')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: deep inside" in done.stderr
    assert "please report it" in done.stderr.splitlines()[-1]


def test_a_run_that_ends_exits_0_and_got_the_whole_job() -> None:
    done = staged("def run(job, resume, meter): print(job.output_dir, job.cuts)")
    assert (done.returncode, done.stdout) == (0, "runs/quickstart 4\n")


def test_ctrl_c_exits_130_with_a_short_message() -> None:
    body = "import time\ndef run(job, resume, meter):\n    print('started', flush=True)\n    time.sleep(60)"
    command = [sys.executable, "-c", STAGED.format(body=body)]
    process = start_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (130, "error: interrupted\n")

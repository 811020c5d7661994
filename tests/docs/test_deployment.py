"""The files of `deploy/`: formats, commands, and the containers' commands as processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml
from documents import ROOT

from commands import run_process, start_process
from ports import free_port
from splitft.launch import cli

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
PERMANENT = {2, 3, 4, 7, 8, 9}  # exit codes after which the same command would end in the same way
SHORT = ["cuts=2", "rounds=1", "local_steps=1", "max_train_samples=200", "max_eval_samples=8"]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every (file, arguments of splitft) that is started for good."""
    for unit in UNITS:
        program, *arguments = shlex.split(line_of(unit, "ExecStart"))
        assert Path(program).name == "splitft"
        yield unit.name, arguments
    for name, service in compose()["services"].items():
        if "entrypoint" not in service:
            yield f"compose.yaml: {name}", service["command"]
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if document["kind"] == "Job":
                yield path.name, document["spec"]["template"]["spec"]["containers"][0]["args"]


def line_of(unit: Path, key: str) -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    return str(value)


COMMANDS = dict(commands())


@pytest.mark.parametrize("place", COMMANDS)
def test_commands_have_options_that_there_are(place: str) -> None:
    """Parsed as the command line parses them, not run."""
    name, *rest = COMMANDS[place]
    group = typer.main.get_command(cli.app)
    command = group.get_command(None, name)  # type: ignore[attr-defined]
    with command.make_context(name, rest) as context:
        assert context.params


def test_the_compose_file_is_one() -> None:
    schemas = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor/compose-spec.json"
    jsonschema.validate(compose(), json.loads(schemas.read_text(encoding="utf-8")))
    services = compose()["services"]
    assert {volume.split(":")[0] for name in services for volume in services[name]["volumes"]} == set(
        compose()["volumes"]
    )


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_of_kubernetes_and_restart_what_can_go_on(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        if document["kind"] == "Job":
            (rule, _) = document["spec"]["podFailurePolicy"]["rules"]
            assert set(rule["onExitCodes"]["values"]) == PERMANENT <= set(cli.EXIT_CODES)


def test_probes_ask_at_the_port_of_health() -> None:
    """Each at the address that its command has for it, and the words of a probe are of the command line."""
    (container,) = [
        document["spec"]["template"]["spec"]["containers"][0]
        for document in yaml.safe_load_all((DEPLOY / "kubernetes/server.yaml").read_text(encoding="utf-8"))
        if document["kind"] == "Job"
    ]
    port = container["readinessProbe"]["grpc"]["port"]
    assert f"--health=0.0.0.0:{port}" in container["args"]
    assert port in [one["containerPort"] for one in container["ports"]]
    server = compose()["services"]["server"]
    (address,) = [part for part in server["command"] if part.startswith("--health=")]
    assert server["healthcheck"]["test"][-1] == address.removeprefix("--health=")
    group: Any = typer.main.get_command(cli.app)
    _, program, operator, name, *rest = server["healthcheck"]["test"]
    assert program == "splitft"
    with group.commands[operator].commands[name].make_context(name, rest) as context:
        assert context.params
    for unit in UNITS:
        if "--health" in (words := shlex.split(line_of(unit, "ExecStart"))):
            number = words[words.index("--health") + 1]
            assert f"{number}" in (ROOT / "docs/deployment.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_of_systemd_and_restart_what_can_go_on(unit: Path, tmp_path: Path) -> None:
    assert set(map(int, line_of(unit, "RestartPreventExitStatus").split())) == PERMANENT
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    program, *_ = shlex.split(line_of(unit, "ExecStart"))
    installed = unit.read_text(encoding="utf-8").replace(program, sys.executable)
    (tmp_path / unit.name).write_text(installed, encoding="utf-8")
    done = run_process(["systemd-analyze", "verify", "--man=no", tmp_path / unit.name])
    assert done.returncode == 0 and unit.name not in done.stderr, done.stderr


def test_what_differs_between_sites_is_in_the_environment_file() -> None:
    text = (DEPLOY / "systemd/client.env").read_text(encoding="utf-8")
    (unit,) = (path for path in UNITS if "client" in path.name)
    used = set(re.findall(r"\$\{(\w+)\}", line_of(unit, "ExecStart")))
    assert used == set(re.findall(r"^(\w+)=", text, re.MULTILINE))


@pytest.mark.slow
def test_what_the_containers_run_ends_with_an_adapter(tmp_path: Path) -> None:
    """No container engine runs here: the compose file's commands as processes, a folder for each volume."""
    services, port, health = compose()["services"], free_port(), free_port()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for volume in services:
        (tmp_path / volume).mkdir(mode=0o700)
    (script,) = services["organiser"]["command"]
    script = script.replace("/parties", str(tmp_path)).replace("$$", "$")
    script = script.replace(f"chown -R 10001:10001 {tmp_path}", "true")
    done = run_process(["sh", "-ec", script], cwd=tmp_path / "organiser", env=environment)
    assert done.returncode == 0, done.stderr
    with ExitStack() as stack:
        started = {}
        for name, service in services.items():
            if name == "organiser":
                continue
            command = [part.replace("0.0.0.0:50051", f"127.0.0.1:{port}") for part in service["command"]]
            command = [part.replace("=server:50051", f"=localhost:{port}") for part in command]
            command = [part.replace(":50053", f":{health}") for part in command]
            more = SHORT if name == "server" else []
            log = stack.enter_context((tmp_path / f"{name}.log").open("w"))
            started[name] = start_process(
                ["splitft", *command, *more], cwd=tmp_path / name, env=environment,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            stack.callback(started[name].kill)
        word, *probe = services["server"]["healthcheck"]["test"]
        assert word == "CMD"
        probe = [part.replace(":50053", f":{health}") for part in probe]
        while run_process(probe, env=environment).stdout != "SERVING\n":
            assert started["server"].poll() is None
        codes = {name: process.wait(timeout=540) for name, process in started.items()}
    logs = "\n".join((tmp_path / f"{name}.log").read_text()[-2000:] for name in started)
    assert set(codes.values()) == {0}, f"{codes}\n{logs}"
    assert (tmp_path / "server/runs/two-sites/adapter/adapter_model.safetensors").is_file()

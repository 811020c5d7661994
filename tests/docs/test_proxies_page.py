"""The commands of docs/proxies.md, in processes of their own, with nginx between server and clients."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from documents import ROOT

from forks import start_command
from nginx import Nginx, needs_nginx
from ports import free_port
from reference import make_setting, write_rows
from site_files import write_open_policy
from splitft import Job
from splitft.engines.network.transport import certs
from splitft.job import dump_job

BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
SITES = ("hospital-a", "hospital-b")


def commands(*words: str) -> list[str]:
    """Return the arguments of the page's one command that begins so, without `splitft`."""
    page = (ROOT / "docs" / "proxies.md").read_text(encoding="utf-8")
    lines = [line for block in BLOCK.findall(page) for line in block.splitlines()]
    found = [
        shlex.split(line, comments=True) for line in lines if line.startswith(" ".join(("splitft", *words)))
    ]
    assert found, words
    return found[0][1:]


@needs_nginx
@pytest.mark.slow
def test_the_pages_commands_run_a_job_behind_nginx(tmp_path: Path) -> None:
    """Tokens are made, the server listens behind the proxy, and a site with the other one's token ends."""
    port, organiser, at_server = free_port(), tmp_path / "organiser", tmp_path / "server"
    # The organiser.
    organiser.mkdir()
    for words in (
        commands("certs", "token"),
        ["certs", "init"],
        [*commands("certs", "token", "hospital-a", "--renew")],
    ):
        made = start_command(words, tmp_path / "organiser.log", cwd=organiser)
        made.join(60)
        assert made.exitcode == 0, (tmp_path / "organiser.log").read_text()
    # The server and its proxy.
    at_server.mkdir()
    setting = make_setting(tmp_path, "llama", num_hidden_layers=4) | {
        "labels": "server", "cuts": 1, "rounds": 2, "local_steps": 1, "warmup_steps": 0,
        "network": {"clients": list(SITES)},
    }  # fmt: skip
    setting["clients"], setting["partition"] = len(SITES), {"method": "iid"}
    dump_job(Job(**setting, output_dir="run"), at_server / "job.yaml")
    shutil.copy(organiser / "certs" / "tokens", at_server / "tokens")
    words = [word.replace("50051", str(port)) for word in commands("server")]
    server = start_command(words, tmp_path / "server.log", cwd=at_server)
    proxy = Nginx(tmp_path / "nginx", port, organiser / "certs" / certs.SERVER_NAME)
    # The sites; the second one first tries the first one's token.
    started = {}
    try:
        for name, token in (("hospital-b", "hospital-a"), *zip(SITES, SITES, strict=True)):
            folder = tmp_path / f"{name}-{token}"
            folder.mkdir()
            write_rows(folder / "rows.txt", 20)
            shutil.copy(organiser / "certs" / token / "token", folder / "token")
            shutil.copy(organiser / "certs" / certs.CA, folder / "ca.pem")
            changed = {
                "splitft.example.org:443": f"localhost:{proxy.port}",
                "hospital-a": name,
                "notes.jsonl": "rows.txt",
            }
            words = [changed.get(word, word) for word in commands("client")]
            words += ["--accept", "first", "--policy", str(write_open_policy(folder))]
            started[name, token] = start_command(words, tmp_path / f"{name}-{token}.log", cwd=folder)
            if name != token:
                started[name, token].join(120)
        for one in (server, *started.values()):
            one.join(240)
        told = {str(path.name): path.read_text(errors="replace") for path in tmp_path.glob("*.log")}
        assert started["hospital-b", "hospital-a"].exitcode == 6, told
        assert "its token is wrong" in told["hospital-b-hospital-a.log"]
        assert [server.exitcode, *(started[name, name].exitcode for name in SITES)] == [0, 0, 0], told
        assert (at_server / "run" / "adapter" / "adapter_model.safetensors").exists()
    finally:
        proxy.stop()
        for one in (server, *started.values()):
            one.kill()

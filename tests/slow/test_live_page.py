"""The live page in a real browser: runs under way, a killed client, a moved cut, a thousand clients.

KEEP_PICTURES=FOLDER keeps pictures of all pages, to be looked at.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from browser import BROWSER, Browser, Page
from forks import start_command
from live_pages import ARRIVED, DESKTOP, PHONE, check_all_sizes, served, settle
from repository import ROOT
from splitft import Job, run
from splitft.job import dump_job
from splitft.tools.watch.address import PageAddress
from splitft.tools.watch.feed import Runs
from splitft.tools.watch.server import PageServer
from tiny import save_tiny_model
from watched_runs import HOSTILE, live, write, write_run

sys.path.append(str(ROOT / "tests" / "chaos"))
from harness import SERVER, Processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is installed"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(autouse=True)
def no_script_failed(browser: Browser) -> Iterator[None]:
    """No page may have had an error, or asked for what its own policy forbids."""
    browser.problems.clear()
    yield
    left = [text for text in browser.problems if "ERR_" not in text]  # a server that has ended
    assert left == []


def type_in(page: Page, selector: str, text: str) -> None:
    """Give an input a value, as a person's hand does."""
    field = f"document.querySelector({selector!r})"
    page.value(f"{field}.value = {text!r}, {field}.dispatchEvent(new Event('input')), 0")
    settle(page)


def printed_url(log: Path) -> str:
    """Return the address that a command prints."""
    deadline = time.monotonic() + 120
    while not (found := re.search(r"Live page: (\S+)", log.read_text() if log.exists() else "")):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return found[1]


HOLD = """
import time
from splitft import Callback, register_callback


@register_callback("hold")
class Hold(Callback):
    def on_train_begin(self, job, output_dir, rounds_done):
        self.folder = output_dir

    def on_step_end(self, job, round_, step, client, loss):
        while (round_, step, client) == (2, 1, "client-2") and not (self.folder / "go").exists():
            time.sleep(0.05)
"""


def test_a_run_under_way_whose_cuts_move(browser: Browser, tmp_path: Path) -> None:
    """`splitft run --live`, held in its second round until the browser has looked."""
    save_tiny_model(tmp_path / "model", "llama", num_hidden_layers=8)
    (tmp_path / "rows.txt").write_text("\n\n".join(f"the people ask for law {i}" for i in range(90)))
    (tmp_path / "hold.py").write_text(HOLD)
    job = Job(
        model_name_or_path=str(tmp_path / "model"), data_files=str(tmp_path / "rows.txt"), clients=3,
        rounds=3, local_steps=3, max_length=16, learning_rate=1e-2, cuts=[2, 3, 4],
        devices=["phone", "laptop", "workstation"],
        cut_policy={"method": "schedule", "schedule": {1: [2, 3, 4], 2: [2, 6, 1]}},
        callbacks=["hold"], output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    dump_job(job, tmp_path / "job.yaml")
    options = ["--plugin", tmp_path / "hold.py", "--live", "--live-listen", "127.0.0.1:0"]
    process = start_command(["run", tmp_path / "job.yaml", *options], tmp_path / "log")
    try:
        url = printed_url(tmp_path / "log")
        page = browser.open(url, DESKTOP)
        page.wait("document.querySelector('#tiles')?.innerText.includes('step 2 of 3')")
        # Who is there, what moved, and why.
        assert page.text("#state") == "training" and page.text("#link") == "live"
        assert page.text("#model-said") == "Moved against the round before: client-1 3 → 6, client-2 4 → 1."
        words = page.text("#clients tbody").split()
        assert [word for word in words if word.startswith("client-")] == ["client-0", "client-1", "client-2"]
        assert all(
            word in page.text("#clients") for word in ("phone", "laptop", "workstation", "training", "kB")
        )
        decisions = page.text("#decisions")
        assert "Round 2: 2 cuts moved, 1 stayed" in decisions and "client-1: 3 → 6 – " in decisions
        assert "activations" in page.text("#bytes") and "virtual clock" in page.text("#waits-said")
        before = page.text("#curve-said")
        assert before.startswith("Round 1: perplexity")
        check_all_sizes(browser, url, "running")
        # The rest of the run reaches a page that is open, with nobody's help, and stays when the server ends.
        (tmp_path / "run" / "go").touch()
        page.wait("document.querySelector('#link').dataset.state === 'off'")
        settle(page)
        assert page.text("#curve-said").startswith("Round 3: perplexity")
        assert page.text("#link").startswith(("The server has ended", "No connection"))
        process.join(120)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
    # The same run afterwards, without its process: the round slider brings the moved cut back.
    with served([tmp_path / "run"]) as url:
        page = browser.open(url, DESKTOP)
        page.wait(ARRIVED)
        assert page.text("#state") == "finished"
        type_in(page, "#round", "2")
        assert page.text("#model-when") == "round 2" and "client-1 3 → 6" in page.text("#model-said")
        check_all_sizes(browser, url, "finished")


class Watched(Processes):
    """A server with its live page, and its clients."""

    def arguments(self, who: str) -> list[str]:
        more = ["--live", "--live-listen", "127.0.0.1:0"] if who == SERVER else []
        return super().arguments(who) + more


def test_a_killed_client_is_seen_to_be_away_and_waited_for(browser: Browser, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model", "llama", num_hidden_layers=6)
    (tmp_path / "rows.txt").write_text("\n\n".join(f"the people ask for law {i}" for i in range(60)))
    names = ["client-0", "client-1", "client-2"]
    settings = {
        "model_name_or_path": str(tmp_path / "model"), "data_files": str(tmp_path / "rows.txt"), "clients": 3,
        "rounds": 40, "local_steps": 4, "max_length": 16, "labels": "client", "cuts": [1, 2, 3],
        "max_eval_samples": 6, "network": {"rejoin_seconds": 3000.0}, "privacy": "server_reads",
    }  # fmt: skip
    network = Watched(settings, tmp_path / "net", names=names)
    try:
        network.start(SERVER)
        url = printed_url(tmp_path / "net" / "server.log")
        page = browser.open(url, DESKTOP)
        page.wait("document.querySelector('#waits-now')?.innerText.includes('client-2')")
        assert page.text("#state") == "waiting for clients"
        assert (
            page.text("#waits-now")
            == "Waiting now for client-0 (invited), client-1 (invited), client-2 (invited)."
        )
        check_all_sizes(browser, url, "waiting")
        for name in names:
            network.start(name)
        page.wait("document.querySelector('#curve-said').innerText.startsWith('Round')")
        network.kill("client-1")
        page.wait("document.querySelector('#waits-now').innerText.includes('client-1 (away')")
        row = page.value("document.querySelector('#clients tbody tr').innerText")
        assert row.startswith("client-1") and "away" in row, "what needs attention comes first"
        assert "1 not there" in page.text("#tiles") and "client-1 is lost" in page.text("#log")
        check_all_sizes(browser, url, "killed")
        network.start("client-1")
        page.wait("!document.querySelector('#waits-now').innerText.includes('away')")
        network.kill(SERVER)
        page.wait("document.querySelector('#link').dataset.state === 'off'")
        # Killed without a word: whoever looks at the folder is told so.
        with served([network.output]) as url:
            page = browser.open(url, DESKTOP)
            page.wait("document.querySelector('#problem')?.innerText.startsWith('Its process, ')")
            assert page.text("#problem").endswith("has ended without a word: it may have been killed")
            check_all_sizes(browser, url, "lost")
    finally:
        network.stop()


def test_a_thousand_clients_stay_legible(browser: Browser, tmp_path: Path) -> None:
    """A simulated run of 1,000 clients, 60 of them a round."""
    save_tiny_model(tmp_path / "model", "llama", num_hidden_layers=6, hidden_size=16)
    (tmp_path / "rows.txt").write_text(
        "\n\n".join(f"the people of state {i} ask for law" for i in range(4000))
    )
    run(
        Job(
            model_name_or_path=str(tmp_path / "model"), data_files=str(tmp_path / "rows.txt"), clients=1000,
            clients_per_round=60, cuts=3, rounds=2, local_steps=1, gradient_accumulation_steps=1,
            max_length=16, max_eval_samples=1000, eval_every=2, save_every=0, learning_rate=1e-2,
            output_dir=str(tmp_path / "run"),
            devices=[("phone", "laptop", "workstation")[i % 3] for i in range(1000)],
            cut_policy={"method": "makespan", "max_cut": 5},
        ),
        console=Console(quiet=True),
    )  # fmt: skip
    with served([tmp_path / "run"]) as url:
        page = browser.open(url, DESKTOP)
        page.wait(ARRIVED)
        assert "1,000" in page.text("#tiles")
        assert page.text("#more-said") == "30 of 1,000 clients."
        assert page.value("document.querySelectorAll('#clients tbody tr').length") == 30
        type_in(page, "#find", "CLIENT-77")
        assert page.value("document.querySelectorAll('#clients tbody tr').length") == 11
        assert page.value("document.querySelector('#model').getBoundingClientRect().height") < 400
        check_all_sizes(browser, url, "thousand")


def test_runs_side_by_side_and_names_that_mean_harm(browser: Browser, tmp_path: Path) -> None:
    script = "<script>document.title='taken'</script>"
    cuts = [{HOSTILE: 3, script: 2, "x" * 300: 4}, {HOSTILE: 5, script: 2, "x" * 300: 4}]
    first = write_run(tmp_path / "runs" / "first", cuts, cut_policy={"method": script})
    write(first, "live.json", live(cuts[1], notices=[[1.0, HOSTILE]]))
    write_run(tmp_path / "runs" / "<b>second", [{"a": 1}] * 4)
    write(tmp_path / "runs" / "<b>second", "summary.json", {"interrupted": False, "rounds": 3})
    with served([tmp_path / "runs"]) as url:
        page = browser.open(url, DESKTOP)
        page.wait(ARRIVED)
        assert page.text("#tabs").split("\n") == ["All runs", "<b>second", "first"]
        table = page.text("#all-table")
        assert "<b>second" in table and "−30.0 ± 1.0 %" in table and script in table
        # Tabs by the keyboard.
        page.value("document.querySelector('#tabs [aria-selected=true]').focus()")
        for _ in range(2):
            page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
        settle(page)
        assert page.text("#name") == "first" and page.value("document.activeElement.textContent") == "first"
        assert script in page.text("#clients") and "onerror" in page.text("#log")
        assert page.value("document.title") == "first – SplitFT live"
        assert page.value("document.querySelectorAll('main img, main b, main script').length") == 0
        check_all_sizes(browser, url, "runs", ["All runs", "first", "<b>second"])


def test_a_page_with_a_token_takes_it_out_of_the_address(browser: Browser, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [{"a": 1}])
    address = PageAddress("127.0.0.1:0", ask_token=True)
    server = PageServer(Runs([folder]), address.hosts, address.token)
    thread = threading.Thread(target=server.run, args=([address.socket],), daemon=True)
    thread.start()
    try:
        page = browser.open(address.url, DESKTOP)
        page.wait(ARRIVED)
        assert address.token not in page.value("location.href") and page.text("#name") == "run"
        page.call("Page.reload")
        page.wait(f"document.readyState === 'complete' && {ARRIVED}")
        other = browser.open(address.url.split("#")[0].replace("127.0.0.1", "localhost"), PHONE)
        other.wait("document.querySelector('#link')?.dataset.state === 'off'")
        assert other.text("#link").startswith("This page needs its token")
        browser.problems.clear()  # the answer 401 is one
    finally:
        server.end()
        thread.join()

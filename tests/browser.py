"""A real browser without a window, driven over its debugging pipe: pages, values, pictures."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
SECONDS = 120.0  # for an answer, on a machine that has other work
_HIGH = 20  # file descriptors from here on are in nobody's way


class Browser:
    """A browser, and the pages that are open in it."""

    def __init__(self, folder: Path) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, _HIGH) for end in (requests, answers)]

        def hand_down() -> None:  # the browser reads at 3 and writes at 4
            for place, end in enumerate(ends, start=3):
                os.dup2(end, place)

        self._process = subprocess.Popen(
            [
                str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}", "about:blank",
            ],
            pass_fds=(3, 4), preexec_fn=hand_down, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (requests, answers, *ends):
            os.close(end)
        self._rest, self._number = b"", 0
        self.problems: list[str] = []  # errors of scripts, and what a page's own policy has kept from loading

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._requests)
        os.close(self._answers)

    def open(self, url: str, width: int, height: int = 1000, *, dark: bool = False) -> Page:
        """Open a page in a window of this size."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target, width)
        page.resize(width, height)
        page.call("Runtime.enable")
        page.call("Log.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=url)
        return page

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Call a method of the debugging protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._answer()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _answer(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], SECONDS)
            assert ready, "the browser does not answer"
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        text, self._rest = self._rest.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(text)
        entry = answer.get("params", {}).get("entry", {})
        if answer.get("method") == "Runtime.exceptionThrown" or entry.get("level") == "error":
            self.problems.append(json.dumps(answer["params"])[:600])
        return answer


class Page:
    """A page of a browser."""

    def __init__(self, browser: Browser, session: str, target: str, width: int) -> None:
        self._browser, self._session, self._target, self.width = browser, session, target, width

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the debugging protocol for this page."""
        return self._browser.call(method, self._session, **parameters)

    def resize(self, width: int, height: int) -> None:
        """Give the window this size; narrow ones are those of phones."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip

    def value(self, script: str) -> Any:
        """Return the value of an expression in the page, which JSON must be able to hold."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text of an element, as a person sees it."""
        return str(self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait(self, script: str, seconds: float = SECONDS) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < deadline, f"{script}: {self.text('body')[:2000]}"
            time.sleep(0.1)
        return found

    def picture(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": self.width, "height": min(size["height"], 6000), "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(shot))

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)

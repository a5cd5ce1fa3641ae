"""Headless Chromium, spoken to over a pipe: what a page really shows, at any width, in the dark, on paper.

Protocol: https://chromedevtools.github.io/devtools-protocol/, messages in JSON that end with a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class Page:
    """One tab; everything that it asks of the network is kept in ``requests``."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.requests: list[str] = []
        self.messages: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, path: Path, width: int, *, dark: bool = False, media: str = "screen") -> None:
        """Show a file on a screen of that many CSS pixels."""
        self.open_address(path.as_uri(), width, dark=dark, media=media)

    def open_address(self, address: str, width: int, *, dark: bool = False, media: str = "screen") -> None:
        """The same for a page that a server has."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._call("Page.navigate", url=address)
        while self.evaluate("document.readyState + location.href") != "complete" + address:
            pass

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def move(self, x: float, y: float) -> None:
        """Let the pointer rest somewhere on the screen."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self) -> bytes:
        """The whole page as a PNG file."""
        return base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._call("Page.printToPDF", printBackground=False)["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                self.messages.append(json.dumps(answer["params"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._from, 1 << 16)
            assert more, "chromium has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextlib.contextmanager
def open_browser(program: Path, profile: Path) -> Iterator[Page]:
    """Start Chromium with nothing of the user's, and end it."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    # Chromium reads on descriptor 3 and writes on 4; high numbers first, because either pipe may have one of these.
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, from_write))
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    command = [program, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$0" "$@" 3<&{reading} 4>&{writing}', *command],
        pass_fds=(reading, writing),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (to_read, from_write, reading, writing):
        os.close(end)
    try:
        yield Page(to_write, from_read)
    finally:
        os.close(to_write)
        os.close(from_read)
        process.kill()
        process.wait()


def luminance(color: str) -> float:
    """Relative luminance of a CSS rgb() colour, https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    parts = np.array([int(part) for part in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def assert_text_stands_out(page: Page, selector: str) -> None:
    """Whether the text of the page's elements has a contrast of 4.5 to what is under it."""
    pairs = page.evaluate(
        f"""[...document.querySelectorAll({json.dumps(selector)})].map(e => {{
            let under = e;
            while (under && getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)') under = under.parentElement;
            const style = getComputedStyle(e);
            return [e.closest('svg') ? style.fill : style.color, getComputedStyle(under).backgroundColor]}})"""
    )
    assert pairs
    for text, under in {tuple(pair) for pair in pairs}:
        bright, dim = sorted((luminance(text), luminance(under)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (text, under)

"""A headless Chromium, driven over its DevTools pipe: no driver program, no package."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
_TO_BASE64 = """(array) => {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) {
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  }
  return btoa(text);
}"""


class BrowserError(Exception):
    """What the browser or the page's script complains of."""


def find_chromium() -> str | None:
    """Returns the path of a Chromium on this machine, None for none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Page:
    """A tab of a browser of its own.

    Attributes:
        complaints: what the page's console and scripts said of errors, in order.
        requests: the addresses that it asked for, in order.
    """

    def __init__(self, program: str, profile: str) -> None:
        """Starts the browser; `open_page` ends it.

        Args:
            program: of Chromium.
            profile: an empty folder.
        """
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._left = b""
        to_browser, self._writer = os.pipe()
        self._reader, from_browser = os.pipe()
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        script = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._session: str | None = None
        targets = self.command("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method: str, *, timeout_s: float = 120, **parameters: Any) -> dict[str, Any]:
        """Returns the answer to a command of the DevTools protocol.

        Raises:
            BrowserError: with the browser's words, or if none come in time.
        """
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writer, data) :]
        limit = time.monotonic() + timeout_s
        while True:
            answer = self._next_message(limit)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._listen(answer)

    def visit(self, url: str) -> None:
        """Loads a page."""
        self.command("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str, *, timeout_s: float = 120) -> Any:
        """Returns what a JavaScript expression, or the promise that it gives, comes to.

        Raises:
            BrowserError: with the script's own error.
        """
        answer = self.command(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            timeout_s=timeout_s,
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            error = details.get("exception", {})
            raise BrowserError(error.get("description") or str(error.get("value", details["text"])))
        return answer["result"].get("value")

    def put(self, name: str, data: bytes) -> None:
        """Makes bytes a Uint8Array, a global variable of the page's."""
        text = base64.b64encode(data).decode()
        self.evaluate(f"{name} = Uint8Array.from(atob('{text}'), (c) => c.charCodeAt(0)), 0")

    def get(self, expression: str, *, timeout_s: float = 120) -> bytes:
        """Returns the bytes of a typed array, or of the promise of one."""
        text = self.evaluate(
            f"Promise.resolve({expression}).then({_TO_BASE64})", timeout_s=timeout_s
        )
        return base64.b64decode(text)

    def wait(self, condition: str, *, timeout_s: float = 60) -> None:
        """Waits until a JavaScript expression is true."""
        limit = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > limit:
                raise BrowserError(f"not so in {timeout_s} s: {condition}. {self.complaints}")
            time.sleep(0.05)

    def choose_file(self, selector: str, path: Path) -> None:
        """Gives a file to an <input type=file>."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, *, width: int, height: int, scheme: str = "light") -> bytes:
        """Returns a PNG of the page at a width and height, in a light or dark scheme."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])

    def _next_message(self, limit: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._reader], [], [], max(limit - time.monotonic(), 0))
            part = os.read(self._reader, 1 << 20) if ready else b""
            if not part:
                raise BrowserError("Chromium gave no answer")
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _listen(self, event: Mapping[str, Any]) -> None:
        """Keeps what tells of errors, and which addresses were asked for."""
        said = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])
            case "Runtime.exceptionThrown":
                details = said["exceptionDetails"]
                self.complaints.append(
                    details.get("exception", {}).get("description", details["text"])
                )
            case "Runtime.consoleAPICalled" if said["type"] == "error":
                words = [str(a.get("value", a.get("description"))) for a in said["args"]]
                self.complaints.append(" ".join(words))
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def close(self) -> None:
        """Ends the browser."""
        self._session = None
        with contextlib.suppress(BrowserError, OSError):
            self.command("Browser.close", timeout_s=5)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._writer)
        os.close(self._reader)


@contextlib.contextmanager
def open_page() -> Iterator[Page]:
    """Yields a tab of a fresh browser, and ends it.

    Raises:
        BrowserError: if this machine has no Chromium.
    """
    program = find_chromium()
    if program is None:
        raise BrowserError("Chromium is needed; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        page = Page(program, profile)
        try:
            yield page
        finally:
            page.close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serves a folder on this machine and yields its address, ending in a slash."""
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()

"""Chromium without a screen, steered over WebDriver (W3C) through Debian's chromedriver."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DRIVER = "/usr/bin/chromedriver"
START = 20.0  # seconds until the driver listens
SCRIPT = 20.0  # seconds in which a script's promise must be settled
FLAGS = (
    "--headless",
    "--window-size=800,1000",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-dev-shm-usage",  # which is small in some containers
    "--use-fake-ui-for-media-stream",  # the microphone is granted without being asked for
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--allow-loopback-in-peer-connection",
)


class BrowserError(AssertionError):
    """What the page or the driver said went wrong."""


class Browser:
    """A context manager: one browser with one page.

    port: the driver's. sound: a WAV file that the microphone hears, over and over. trusted: the file of a
    certificate that is taken as good, whoever signed it.
    """

    def __init__(self, port: int, *, sound: Path, trusted: str = "") -> None:
        self._port = port
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={sound}"]
        if trusted:
            flags.append(f"--ignore-certificate-errors-spki-list={_key_hash(Path(trusted))}")
        self._capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": round(SCRIPT * 1000)},
        }
        self._session = ""

    def __enter__(self) -> Browser:
        self._driver = subprocess.Popen(
            [DRIVER, f"--port={self._port}", "--silent"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait_for_driver()
            asked = {"capabilities": {"alwaysMatch": self._capabilities}}
            self._session = f"/session/{self._ask('POST', '/session', asked)['sessionId']}"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("DELETE", self._session)
        finally:
            self._end()

    def open(self, url: str) -> None:
        self._ask("POST", f"{self._session}/url", {"url": url})

    def run(self, expression: str, *arguments: object) -> Any:
        """The value of a JavaScript expression (or of its promise) with `args`. Raises BrowserError."""
        script = f"const args = [...arguments]; return (async () => ({expression}))()"
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def wait_until(self, expression: str, *arguments: object, seconds: float = 10.0) -> Any:
        """The first value of the expression that is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(expression, *arguments)):
            if time.monotonic() > deadline:
                raise BrowserError(
                    f"{expression} stays {value!r} for {seconds} s; the console: {self.console()}"
                )
            time.sleep(0.05)
        return value

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._ask("GET", f"{self._session}/screenshot")))

    def console(self) -> list[str]:
        """What the page has said since the last time."""
        entries = self._ask("POST", f"{self._session}/se/log", {"type": "browser"})
        return [f"{entry['level']} {entry['message']}" for entry in entries]

    def _wait_for_driver(self) -> None:
        deadline = time.monotonic() + START
        while True:
            try:
                self._ask("GET", "/status")
                return
            except urllib.error.URLError:
                if self._driver.poll() is not None or time.monotonic() > deadline:
                    raise BrowserError("chromedriver does not start") from None
                time.sleep(0.05)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=2 * SCRIPT) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise BrowserError(json.load(error)["value"]["message"]) from None

    def _end(self) -> None:
        self._driver.terminate()
        self._driver.wait(10)


def _key_hash(certificate: Path) -> str:
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    return base64.b64encode(
        hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    ).decode()

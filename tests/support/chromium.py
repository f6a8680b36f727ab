"""A real Chromium without a screen, driven by ChromeDriver over the WebDriver protocol (https://www.w3.org/TR/webdriver2).

    with chromium(tmp_path, trusted=web_certificate) as browser:
        browser.open("https://127.0.0.1:8443/")
        browser.click("button[type=submit]")
"""

import base64
import hashlib
import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.children import Child

START_SECONDS, CALL_SECONDS, WAIT_SECONDS = 60.0, 120.0, 60.0
_STEP_SECONDS = 0.1
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # what the protocol calls an element
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad",
    "--no-proxy-server", "--lang=en-GB", "--window-size=1280,900",
)  # fmt: skip


class Browser:
    """One window. What is not there yet is waited for, a bounded time."""

    def __init__(self, port: int, options: list[str]) -> None:
        self._port = port
        chrome = {"binary": "/usr/bin/chromium", "args": options}
        wanted = {"browserName": "chrome", "goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = ""
        self._session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a command; raise AssertionError with the browser's own words when it fails."""
        prefix = f"/session/{self._session}" if self._session else ""
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=CALL_SECONDS)) as connection:
            connection.request(method, prefix + path, None if body is None else json.dumps(body))
            value = json.load(connection.getresponse())["value"]
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{value['error']}: {value['message'].splitlines()[0]}")
        return value

    def quit(self) -> None:
        """Close the window and end the browser."""
        self._call("DELETE", "")

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self._call("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        """The address that the window shows."""
        return str(self._call("GET", "/url"))

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript as the body of a function and return what it returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": arguments})

    def until(self, script: str, *arguments: Any, seconds: float = WAIT_SECONDS) -> Any:
        """Run JavaScript again and again until it returns something true; return that."""
        deadline = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            if time.monotonic() > deadline:
                said = self.text()[:2000]
                raise AssertionError(f"not within {seconds} s: {script} {arguments}\nthe page says: {said}")
            time.sleep(_STEP_SECONDS)
        return found

    def text(self, selector: str = "body") -> str:
        """Return what a reader sees of the first such element; nothing when there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def shows(self, text: str, selector: str = "body", *, seconds: float = WAIT_SECONDS) -> None:
        """Wait until a reader sees the text there."""
        script = "return document.querySelector(arguments[0])?.innerText.includes(arguments[1])"
        self.until(script, selector, text, seconds=seconds)

    def find(self, selector: str) -> str:
        """Wait for an element that can be seen; return its id."""
        script = "const e = document.querySelector(arguments[0]); return e && e.checkVisibility() ? e : null"
        return str(self.until(script, selector)[_ELEMENT])

    def click(self, selector: str) -> None:
        """Click on an element."""
        self._call("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into an element, key by key: `ENTER` too."""
        self._call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def attach(self, file: Path, selector: str = "input[type=file]") -> None:
        """Choose a file, as in the window that a browser opens for that."""
        found = self.until("return document.querySelector(arguments[0])", selector)[_ELEMENT]
        self._call("POST", f"/element/{found}/value", {"text": str(file)})

    def screenshot(self, path: Path) -> None:
        """Write what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def console(self) -> list[str]:
        """Return what the pages said to the console since the last call, errors of the network too."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]


ENTER = "\ue007"


def key_hash(certificate_pem: bytes) -> str:
    """Return the hash of a certificate's public key, as Chromium's option wants it."""
    certificate = x509.load_pem_x509_certificate(certificate_pem[certificate_pem.index(b"-----BEGIN CERTIFICATE") :])
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


@contextmanager
def chromium(directory: Path, trusted: bytes) -> Iterator[Browser]:
    """Yield a browser with an empty profile that takes this one certificate; nothing of it is left afterwards."""
    home = directory / "browser"
    home.mkdir()
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}
    driver = Child(["/usr/bin/chromedriver", "--port=0"], home / "driver.log", variables=variables, directory=home)
    driver.start()
    try:
        driver.wait_until(lambda: _port(driver), START_SECONDS)
        own = f"--user-data-dir={home}/profile", f"--ignore-certificate-errors-spki-list={key_hash(trusted)}"
        browser = Browser(_port(driver), [*_OPTIONS, *own])
        try:
            yield browser
        finally:
            browser.quit()
    finally:
        driver.stop()


def _port(driver: Child) -> int:
    """Return where the driver listens; 0 before it has said so."""
    found = re.search(r"started successfully on port (\d+)", driver.said())
    return int(found[1]) if found else 0

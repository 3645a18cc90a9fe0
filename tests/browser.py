# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium that opens pages at any width, light and dark: the DevTools protocol over two pipes.

`python -m tests.browser PAGE OUT.png [WIDTH [light|dark]]` takes a picture of a whole page.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "no Chromium here; on Debian and Ubuntu: apt-get install -y --no-install-recommends chromium"
#: of one answer; a page of a busy machine may take long
SECONDS = 600
#: no sandbox: inside a container the user is often root
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--remote-debugging-pipe",
)  # fmt: skip
#: pages may read other files of the disk
READS = "--allow-file-access-from-files"


def find() -> str | None:
    """The browser's program, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One window. Messages of the protocol end in a zero byte; those without our number are news that nobody needs."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._rest, self._number, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + SECONDS
        while True:
            while b"\0" in self._rest:
                one, _, self._rest = self._rest.partition(b"\0")
                report = json.loads(one)
                if report.get("id") == self._number:
                    assert "error" not in report, report
                    return report["result"]
            ready, _, _ = select.select([self._receive], [], [], max(0.0, until - time.monotonic()))
            more = os.read(self._receive, 1 << 20) if ready else b""
            assert more, f"{method}: the browser " + ("ended" if ready else f"said nothing for {SECONDS} s")
            self._rest += more

    def open(self, page: Path, width: int, dark: bool = False) -> None:
        """Open a file in a window of that width; a phone's below 500 pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                  mobile=width < 500)  # fmt: skip
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.resolve().as_uri())
        until = time.monotonic() + SECONDS
        while self.run("location.href === 'about:blank' || document.readyState !== 'complete'"):
            assert time.monotonic() < until, f"{page} does not load"
            time.sleep(0.02)
        self.run("document.fonts.ready.then(() => true)")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        output = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in output, output["exceptionDetails"]
        return output["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as a PNG."""
        output = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(output["data"])


@contextlib.contextmanager
def browser(program: str, reads: bool = True) -> Iterator[Browser]:
    """Start it, and end it. Without `reads` its pages may not read files of the disk, as in everybody's browser."""
    theirs_in, send = os.pipe()
    receive, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory() as home:
        # it reads from descriptor 3 and writes to 4; bash puts them there, sh only knows numbers of one digit
        command = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", program, *FLAGS,
                   *([READS] if reads else []), f"--user-data-dir={home}"]  # fmt: skip
        process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(send, receive)
        finally:
            os.close(send)  # with its pipe it ends
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(receive)


def main(page: str, out: str, width: str = "1280", scheme: str = "light") -> None:
    program = find()
    if program is None:
        sys.exit(MISSING)
    with browser(program) as window:
        window.open(Path(page), int(width), scheme == "dark")
        Path(out).write_bytes(window.picture())


if __name__ == "__main__":
    main(*sys.argv[1:])

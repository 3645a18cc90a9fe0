# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Redirect what libraries and child processes print into a log file, so that a command alone writes to the screen."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

#: columns of a console that is no terminal, so that tables are not truncated
WIDTH = 160
#: a progress line of this package, `  stage 1: step 43/80  1.6m 2.912  8 s left` or `  reading text …`; the number of
#: the log's last bytes that are searched for one
PROGRESS, LAST_BYTES = re.compile(r"  (\w[^\n]*?(?:: [^\n]*?\d/\d[^\n]*?| …))(?: +\d+ s left)?\n"), 4096


class LogCapture:
    """A context in which file descriptors 1 and 2, of this process and of its children, write to a log file.

    Descriptors are redirected, not `sys.stdout`, because logging handlers keep streams and child processes inherit
    descriptors.

    Attributes:
        out, err: consoles on the original stdout and stderr.
    """

    def __enter__(self) -> LogCapture:
        with ExitStack() as held:
            self._streams = sys.stdout, sys.stderr
            self._screens = [
                held.enter_context(open(os.dup(number), "w", buffering=1, errors="backslashreplace"))
                for number in (1, 2)
            ]
            self.out, self.err = map(console_on, self._screens)
            # without a name: the command may still refuse its output folder
            log = os.dup(held.enter_context(tempfile.TemporaryFile()).fileno())
            # never closed: a library's thread may write to it after the context ends
            self._log = open(log, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
            held.callback(self._lead_to, *self._screens)
            self._lead_to(self._log, self._log)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        sys.stdout, sys.stderr = self._streams

    def _lead_to(self, out: Any, err: Any) -> None:
        for stream in (*self._streams, self._log):  # buffered text belongs to the old target
            stream.flush()
        for number, stream in ((1, out), (2, err)):
            os.dup2(stream.fileno(), number)
        sys.stdout = sys.stderr = self._log

    def keep(self, path: Path) -> None:
        """Append the log so far to a file, write to that file from now on, and print its path to stderr."""
        log = self._log.fileno()
        with path.open("a+b") as file:
            file.write(os.pread(log, os.fstat(log).st_size, 0))
            file.flush()
            os.dup2(file.fileno(), log)
        self._lead_to(self._log, self._log)
        self.err.print(f"full log: {path}", soft_wrap=True)

    @contextmanager
    def live(self, console: Any, line: Callable[[], str]) -> Iterator[None]:
        """In a terminal, show a line that is refreshed twice a second, with the newest progress line of the log."""
        from rich.live import Live
        from rich.text import Text

        if not console.is_terminal:
            yield
            return
        began = os.fstat(self._log.fileno()).st_size
        with Live(
            get_renderable=lambda: Text(line() + self._progress(began), no_wrap=True, overflow="ellipsis"),
            console=console, transient=True, refresh_per_second=2, redirect_stdout=False, redirect_stderr=False,
        ):  # fmt: skip
            yield

    def _progress(self, began: int) -> str:
        """The newest progress line of the log after byte `began`."""
        log = self._log.fileno()
        first = max(began, os.fstat(log).st_size - LAST_BYTES)
        lines = PROGRESS.findall(os.pread(log, LAST_BYTES, first).decode("utf-8", "replace"))
        return f"  ({lines[-1]})" if lines else ""

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Print to stderr that `what` begins, then its seconds; in a terminal both in one line."""
        began = time.monotonic()
        if not self.err.is_terminal:
            self.err.print(f"{what} …")
        with self.live(self.err, lambda: f"{what}  {time.monotonic() - began:.0f} s"):
            yield
        self.err.print(f"{what}  {time.monotonic() - began:.0f} s")


def console_on(stream: Any) -> Any:
    """A console without markup; tables are not truncated if the stream is no terminal."""
    from rich.console import Console

    screen = Console(file=stream, highlight=False, markup=False)
    return screen if screen.is_terminal else Console(file=stream, highlight=False, markup=False, width=WIDTH)

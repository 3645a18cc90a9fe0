# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Keep a command's screen for the command: what libraries and jobs print meanwhile goes to a file."""

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

#: columns of what is no terminal, which has no width of its own: tables must not be cut there
WIDTH = 160
#: a line of this package's that says how far something is, `  stage 1: step 43/80  1.6m 2.912  8 s left` or
#: `  reading text …`; how many bytes back one is looked for
COUNTED, NEAR = re.compile(r"  (\w[^\n]*?(?:: [^\n]*?\d/\d[^\n]*?| …))(?: +\d+ s left)?\n"), 4096


class Aside:
    """While it is entered, descriptors 1 and 2 of this process, and of those that it starts, lead to a file.

    Handlers of logging and consoles hold on to streams of their own, and processes inherit descriptors: only below
    them all is everything caught.

    Attributes:
        out, err: consoles on what stdout and stderr were before.
    """

    def __enter__(self) -> Aside:
        with ExitStack() as held:
            self._streams = sys.stdout, sys.stderr
            self._screens = [
                held.enter_context(open(os.dup(number), "w", buffering=1, errors="backslashreplace"))
                for number in (1, 2)
            ]
            self.out, self.err = map(console_on, self._screens)
            # no name yet: the command may still refuse to make its folder
            log = os.dup(held.enter_context(tempfile.TemporaryFile()).fileno())
            # never closed: a thread of a library may hold it for longer
            self._log = open(log, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
            held.callback(self._lead_to, *self._screens)
            self._lead_to(self._log, self._log)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        sys.stdout, sys.stderr = self._streams

    def _lead_to(self, out: Any, err: Any) -> None:
        for stream in (*self._streams, self._log):  # what they hold back was meant for where they led to
            stream.flush()
        for number, stream in ((1, out), (2, err)):
            os.dup2(stream.fileno(), number)
        sys.stdout = sys.stderr = self._log

    def keep(self, path: Path) -> None:
        """Give the file its name, and say it on stderr; what was printed before is in it, too."""
        log = self._log.fileno()
        with path.open("a+b") as file:
            file.write(os.pread(log, os.fstat(log).st_size, 0))
            file.flush()
            os.dup2(file.fileno(), log)
        self._lead_to(self._log, self._log)
        self.err.print(f"the other output: {path}", soft_wrap=True)

    @contextmanager
    def moving(self, console: Any, line: Callable[[], str]) -> Iterator[None]:
        """Show a line while the block lasts, in a terminal, as it is from moment to moment, and what is counted."""
        from rich.live import Live
        from rich.text import Text

        if not console.is_terminal:
            yield
            return
        began = os.fstat(self._log.fileno()).st_size
        with Live(
            get_renderable=lambda: Text(line() + self._counted(began), no_wrap=True, overflow="ellipsis"),
            console=console, transient=True, refresh_per_second=2, redirect_stdout=False, redirect_stderr=False,
        ):  # fmt: skip
            yield

    def _counted(self, began: int) -> str:
        """The newest line of the file, from a place on, that says how far something is."""
        log = self._log.fileno()
        first = max(began, os.fstat(log).st_size - NEAR)
        lines = COUNTED.findall(os.pread(log, NEAR, first).decode("utf-8", "replace"))
        return f"  ({lines[-1]})" if lines else ""

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Say on stderr what begins, and when it has ended how many seconds it took; in a terminal in one line."""
        began = time.monotonic()
        if not self.err.is_terminal:
            self.err.print(f"{what} …")
        with self.moving(self.err, lambda: f"{what}  {time.monotonic() - began:.0f} s"):
            yield
        self.err.print(f"{what}  {time.monotonic() - began:.0f} s")


def console_on(stream: Any) -> Any:
    """A console that takes text as it is, and cuts no table where its stream is no terminal."""
    from rich.console import Console

    screen = Console(file=stream, highlight=False, markup=False)
    return screen if screen.is_terminal else Console(file=stream, highlight=False, markup=False, width=WIDTH)

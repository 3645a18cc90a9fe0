# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""This package's lines of a training: they reach the terminal also while stdout is led to a host's log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO

__all__ = ["in_terminal", "redirected", "say", "stdout_to"]

#: the terminal, while stdout is led to a file
_terminal: TextIO | None = None


def say(text: str, end: str = "\n") -> None:
    """Print a line of ours."""
    print(text, end=end, file=_terminal or sys.stdout, flush=True)


def in_terminal() -> bool:
    """Whether a person reads our lines, and one may take the place of another."""
    return (_terminal or sys.stdout).isatty()


@contextmanager
def redirected(file: IO[bytes], *numbers: int) -> Iterator[None]:
    """While it lasts, what this process and libraries in C write to some file descriptors goes to a file.

    The streams stay the same objects, so that handlers that are made meanwhile write to the terminal afterwards.
    """
    streams = sys.stdout, sys.stderr
    before = [os.dup(number) for number in numbers]
    try:
        for stream in streams:  # buffered text belongs to the old target
            stream.flush()
        for number in numbers:
            os.dup2(file.fileno(), number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, old in zip(numbers, before, strict=True):
            os.dup2(old, number)
            os.close(old)


@contextmanager
def stdout_to(path: Path) -> Iterator[None]:
    """While it lasts, append what this process prints to a file; `say` and stderr are as before."""
    global _terminal
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.dup(1), "w", errors="backslashreplace") as _terminal, path.open("ab") as log:
        try:
            with redirected(log, 1):
                yield
        finally:
            _terminal = None

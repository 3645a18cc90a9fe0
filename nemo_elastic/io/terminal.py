# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""This package's lines of a training: they reach the terminal also while stdout is led to a host's log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

__all__ = ["in_terminal", "say", "stdout_to"]

#: the terminal, while stdout is led to a file
_kept: TextIO | None = None


def say(text: str, end: str = "\n") -> None:
    """Print a line of ours."""
    print(text, end=end, file=_kept or sys.stdout, flush=True)


def in_terminal() -> bool:
    """Whether a person reads our lines, and one may take the place of another."""
    return (_kept or sys.stdout).isatty()


@contextmanager
def stdout_to(file: Path) -> Iterator[None]:
    """While it lasts append what this process and libraries in C print to a file; `say` and stderr are as before."""
    global _kept
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", errors="backslashreplace") as screen, file.open("ab") as log:
        _kept = screen
        os.dup2(log.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(screen.fileno(), 1)
            _kept = None

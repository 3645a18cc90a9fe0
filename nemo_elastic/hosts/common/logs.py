# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a host logs of a run is in its log files; on the terminal stay errors, and what this package prints.

A host and its neighbours log up to 400 lines before the first loss: process groups, indices of data, a line for each
weight. No host is imported here: what its import prints is kept, too.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.terminal import redirected, stdout_to

__all__ = ["errors_alone", "import_quietly", "lines_to"]


def errors_alone() -> None:
    """From here on let handlers that write to the terminal pass errors alone; those that write to files pass all."""
    root = logging.getLogger()
    if not root.handlers:  # where one is missing, a library adds one that passes more
        root.addHandler(logging.StreamHandler())
    named = [one for one in logging.Logger.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    for handler in {handler for logger in (root, *named) for handler in logger.handlers}:
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
            handler.addFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


@contextmanager
def lines_to(file: Path) -> Iterator[None]:
    """While it lasts append what a host prints and logs, and Python's warnings, to a file; for one that has no log.

    Errors reach the terminal, too, and what this package says.
    """
    errors_alone()
    logging.captureWarnings(True)
    with stdout_to(file):
        handler = logging.FileHandler(file)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()


@contextmanager
def import_quietly() -> Iterator[None]:
    """While it lasts, keep what this process prints, and print it only where an import fails.

    An `ElasticError` is no failed import: its own line says all.
    """
    with tempfile.TemporaryFile() as kept:
        try:
            with redirected(kept, 1, 2):
                yield
        except BaseException as error:
            if not isinstance(error, ElasticError):
                kept.seek(0)
                os.write(2, kept.read())
            raise

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tests that run in a process of their own, because they fork many times."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from tests.workers import ROOT


def alone(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test of a module's in a process that has imported this module and no other test.

    A fork of a process that holds torch and every test's modules takes ten times as long as one of a small process.

    Args:
        test: A function whose arguments can be pickled.

    Returns:
        The same test; it fails with the traceback of that process.
    """

    name = f"{test.__module__} as tests; tests.{test.__name__}"
    code = f"import pickle, sys; given = pickle.load(sys.stdin.buffer); import {name}.__wrapped__(**given)"

    @functools.wraps(test)
    def run(**given: Any) -> None:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, input=pickle.dumps(given), capture_output=True, timeout=1800
        )
        assert done.returncode == 0, (done.stdout[-2000:] + done.stderr[-4000:]).decode(errors="replace")

    return run

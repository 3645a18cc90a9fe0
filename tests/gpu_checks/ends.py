# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that end in every way, for test_checks.py; nothing heavy is imported where they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def fine(device: str, place: Path) -> dict[str, Any]:
    return {"ok": place.is_dir() and device == "cpu", "told": "fine", "figures": {"x": 1}}


def crash(device: str, place: Path) -> None:
    raise RuntimeError("CUDA error: misaligned address")


def abort(device: str, place: Path) -> None:
    os.abort()


def hang(device: str, place: Path) -> None:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])

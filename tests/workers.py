# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Modules that run in a process of their own, for NeMo's global state, and leave files with what they saw.

Such processes are forks of one that has NeMo imported: see `tests/warm/sitecustomize.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest  # an environment of vLLM's has none

ROOT = Path(__file__).parents[1]
WARM = ROOT / "tests" / "warm"
#: a variable that names the folder for what the processes of a run of the tests share
SHARED = "NEMO_ELASTIC_TEST_SHARED"


def environment(**more: str) -> dict[str, str]:
    """Of a process with one thread that finds this checkout, and whose import of NeMo has been done."""
    return os.environ | {"PYTHONPATH": f"{WARM}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1",
                         "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"} | more  # fmt: skip


def free_port() -> int:
    """A port that nobody listens at, below the range that the system gives to connections of other tests meanwhile."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def work(module: str, *args: object, timeout: float = 1800) -> str:
    """Run `python -m module args` to its end with one thread; returns what it printed.

    Raises:
        AssertionError: it failed; with the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *map(str, args)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def copy_of(key: str, make: Callable[[Path], object], place: Path, *names: str) -> None:
    """Put what `make` leaves in an empty folder into `place`, all of it or what is named.

    The processes of one run of the tests make it once, the others wait; outside of such a run it is made in `place`.
    """
    if SHARED not in os.environ:
        make(place)
        return
    made = Path(os.environ[SHARED]) / key
    with open(f"{made}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not Path(f"{made}.done").exists():
            shutil.rmtree(made, ignore_errors=True)
            make(made)
            Path(f"{made}.done").touch()
    for name in names or os.listdir(made):
        shutil.copytree(made / name, place / name, symlinks=True)


def parts(request: pytest.FixtureRequest) -> list[str]:
    """What the selected tests of a file look at in the run that they share: names of their marks `part`."""
    tests = [item for item in request.session.items if item.path == request.path]
    return sorted({name for item in tests for mark in item.iter_markers("part") for name in mark.args})


def part(*names: str, long: bool = False) -> list[pytest.MarkDecorator]:
    """Marks of a parametrized case that looks at such parts; one that `make test` leaves out if it is long."""
    import pytest

    return [pytest.mark.part(*names), *([pytest.mark.long] if long else [])]

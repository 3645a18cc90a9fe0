# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

from tests.workers import SHARED

# no test asks a hub but one that has a hub of its own; unset, each look for one waits for a name's address, five times
os.environ["HF_HUB_OFFLINE"] = "1"

# how long an example takes is up to what else the machine does; what takes more of them says so itself
settings.register_profile("suite", deadline=None, max_examples=40)
settings.load_profile("suite")


#: a variable that every process of a run inherits, whatever session it moves to and whoever adopts it
RUN = "NEMO_ELASTIC_TEST_RUN"


def left_by(run: str) -> list[psutil.Process]:
    """Processes that a run of tests has started and that still live, but for this one."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(RUN) == run:
                left.append(process)
        except psutil.Error:  # it has ended, or is another user's
            continue
    return left


def pytest_configure(config: pytest.Config) -> None:
    """Let a run in the background hear Ctrl-C, end what tests leave running, order files, and name the forks' socket.

    A shell ignores SIGINT for what it starts with `&`, and so would every process of the tests of Ctrl-C. The forks
    are of a process that has NeMo imported; who is the first to need it starts it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if RUN not in os.environ:  # not a worker of pytest-xdist's
        os.environ[RUN] = run = f"{os.getpid()}-{os.urandom(8).hex()}"
        config.add_cleanup(lambda: end_all(run))
        os.environ[SHARED] = shared = tempfile.mkdtemp(prefix="nemo-elastic-shared-")
        config.add_cleanup(lambda: shutil.rmtree(shared, ignore_errors=True))
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist's own order is by number of cases
        config.option.loadscopereorder = False
    if hasattr(os, "pidfd_open") and find_spec("nemo") is not None and "NEMO_ELASTIC_WARM" not in os.environ:
        folder = tempfile.mkdtemp(prefix="nemo-elastic-")
        os.environ["NEMO_ELASTIC_WARM"] = f"{folder}/socket:{os.getpid()}"
        config.add_cleanup(lambda: shutil.rmtree(Path(folder), ignore_errors=True))


def end_all(run: str) -> None:
    """Kill what a run of tests has left: a test that failed between start and end of a program leaves it at work."""
    for process in psutil.wait_procs(left_by(run), timeout=3)[1]:  # the forks' server sees that its socket has gone
        with suppress(psutil.Error):  # it ends at this moment
            print(f"killed: {process.pid} {' '.join(process.cmdline())[:100]}")
            process.kill()


@pytest.fixture(scope="module")
def results(place: Path) -> dict[str, Any]:
    """What a function that `tests.parallel.forks.measured` has called returned."""
    return json.loads((place / "results.json").read_text())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow files first, the slowest before all: a worker takes a file at a time, and none should end with one."""
    minutes: dict[Path, float] = {}
    for item in items:
        if (slow := item.get_closest_marker("slow")) is not None:
            minutes[item.path] = max(minutes.get(item.path, 0), slow.kwargs.get("minutes", 0.2))
    items.sort(key=lambda item: -minutes.get(item.path, 0))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, and forget the attention backend of the last test's model.

    megatron-core writes it into NVTE_* variables and refuses to build a model with another backend where it finds
    them, in the same process or in one that inherits them.
    """
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    for name in [n for n in os.environ if n.startswith("NVTE_")]:
        del os.environ[name]

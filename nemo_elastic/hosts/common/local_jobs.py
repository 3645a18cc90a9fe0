# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs that run on this machine end with the script that started them.

NeMo-Run gives each a session of its own, which no key of a terminal reaches, and waits for it in a thread: on Ctrl-C
its ranks would train on, and hold their GPUs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

__all__ = ["jobs_end_with_this"]

#: seconds in which ranks may end by themselves; torchrun gives those that do not 30
PATIENCE = 45.0


@contextmanager
def jobs_end_with_this() -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on to the jobs that this process starts in the block, and leave when all have ended.

    No job stays either where anything else ends the block with an error. Pressed again, Ctrl-C kills them.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
        SystemExit: 143 after SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may take signals
        yield
        return

    def take(number: int, _: Any) -> None:
        restore()
        _end(number, others)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    others = psutil.Process().children()
    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException:
        restore()
        _end(signal.SIGTERM, others)  # also one that was being started when the signal came
        raise
    finally:
        restore()


def _end(number: int, others: list[psutil.Process]) -> None:
    """Send a signal to every job, and wait until no process of one lives; one that outlives PATIENCE is killed."""
    jobs = [child for child in psutil.Process().children() if child not in others and _session(child.pid) == child.pid]
    seen = set(jobs)
    try:
        _living(jobs, seen)  # torchrun's ranks have sessions of their own: once it has ended, nothing tells whose
        for job in jobs:
            with suppress(psutil.NoSuchProcess):
                job.send_signal(number)  # torchrun tells its ranks
        end = time.monotonic() + PATIENCE
        while _living(jobs, seen) and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        for _ in range(20):  # again, for what a job was starting; not for ever, for what hangs in a driver
            left = _living(jobs, seen)
            if not left:
                break
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.1)


def _living(jobs: list[psutil.Process], seen: set[psutil.Process]) -> list[psutil.Process]:
    """The processes of the jobs that run: those `seen` before, to which it adds the ones that started since.

    A rank that a job was starting as it ended is below no job, but of the job's session.
    """
    for job in jobs:
        with suppress(psutil.NoSuchProcess):
            seen.update(job.children(recursive=True))
    sessions = {job.pid for job in jobs}
    for pid in psutil.pids() if jobs else ():
        if _session(pid) in sessions:
            with suppress(psutil.NoSuchProcess):
                seen.add(psutil.Process(pid))
    return [process for process in seen if _lives(process)]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _lives(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended is left for NeMo-Run to ask for its exit code."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

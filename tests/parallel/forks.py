# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Groups of gloo ranks, each a fork of a process that has its host imported and has computed nothing.

A start takes seconds so; importing NeMo thirty times for kills and forty times for layouts would take longer than all
other tests.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from nemo_elastic.errors import ElasticError
from tests.workers import free_port, parts, work

#: what a rank that did not end in time has as its exit code; the time is no measure of anything: machines are busy
HANGS, HANG = -99, 1500
CLEAR = 2  # one clear line
#: of Linux's prctl: what a dead child leaves becomes ours
SET_CHILD_SUBREAPER = 36


@dataclass
class Ranks:
    """A started group.

    Attributes:
        folder: `rank0.log` and `rank0.json`, what a rank said and returned.
        pids: of the ranks.
    """

    folder: Path
    pids: list[int]

    def wait(self, seconds: float = HANG) -> list[int]:
        """Exit codes of all ranks; minus the number of a signal that ended one. Those that go on are killed."""
        codes: dict[int, int] = {}
        end = time.monotonic() + seconds
        while len(codes) < len(self.pids) and time.monotonic() < end:
            for pid in self.pids:
                if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(ended[1])
            time.sleep(0.01)
        for pid in self.pids:
            if pid not in codes:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        return [codes.get(pid, HANGS) for pid in self.pids]

    def wait_or_kill(self, seconds: float) -> list[int]:
        """Exit codes; SIGKILL for all that go on after so many seconds."""
        return [-signal.SIGKILL if code == HANGS else code for code in self.wait(seconds)]

    def kill(self, rank: int = 0) -> None:
        """SIGKILL; one that has ended already stays as it is."""
        os.kill(self.pids[rank], signal.SIGKILL)

    def said(self, rank: int = 0) -> str:
        return (self.folder / f"rank{rank}.log").read_text()

    def result(self, rank: int = 0) -> Any:
        return json.loads((self.folder / f"rank{rank}.json").read_text())


def start(folder: Path, world: int, function: Callable[..., Any], *args: Any, **more: Any) -> Ranks:
    """Start a group in which every rank calls the function, and what that returns is written down as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    pids = []
    gc.freeze()  # each collection would touch, and so copy, all that was imported
    for rank in range(world):
        (folder / f"rank{rank}.json").unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            _rank(folder, rank, world, port, partial(function, *args, **more))
        pids.append(pid)
    return Ranks(folder, pids)


def run(
    folder: Path, world: int, function: Callable[..., Any], *args: Any, seconds: float = HANG, **more: Any
) -> list[Any]:
    """Results of all ranks.

    Raises:
        RuntimeError: one failed or did not end in time; with the end of what it said.
    """
    ranks = start(folder, world, function, *args, **more)
    codes = ranks.wait(seconds)
    if any(codes):
        bad = next(r for r, code in enumerate(codes) if code)
        raise RuntimeError(f"exit codes {codes} in {folder}; rank {bad} said:\n{ranks.said(bad)[-3000:]}")
    return [ranks.result(rank) for rank in range(world)]


def measured(measure: Callable[[Path, Collection[str]], Any]) -> Any:
    """A fixture: the folder in which a process that has the host imported has called a function of a test file.

    The function gets the folder and the parts that the selected tests look at; what it returns is in `results.json`.
    """

    @pytest.fixture(scope="module")
    def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        from tests.parallel.runs import host

        folder = tmp_path_factory.mktemp(request.module.__name__.rpartition("_")[2])
        work(*host().STARTED_BY, "tests.parallel.forks", measure.__module__, measure.__name__, folder, *parts(request))
        return folder

    return place


def main(module: str, function: str, place: Path, *parts: str) -> None:
    """Let a function measure, its ranks being forks of this process."""
    from tests.parallel.runs import host

    host().load()
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    results = getattr(importlib.import_module(module), function)(place, parts)
    (place / "results.json").write_text(json.dumps(results))
    for process in psutil.Process().children(recursive=True):  # a writer or loader outlives the SIGKILL of its rank
        process.kill()


def write_without_a_helper() -> None:
    """Save without the process that megatron-core starts for a queue: it imports torch anew, and outlives a SIGKILL.

    Whole saves, which do not go on in the background, put into the queue and take from it in one process.
    """
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    filesystem_async._results_queue = queue.Queue()


def _rank(folder: Path, rank: int, world: int, port: int, function: Callable[[], Any]) -> None:
    """What a fork does; it never returns. Its environment is that of a rank that torchrun started."""
    log = os.open(folder / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests",
    }  # fmt: skip
    code = 1
    atexit._clear()  # what the parent has to clean up is not ours
    write_without_a_helper()
    try:
        (folder / f"rank{rank}.json").write_text(json.dumps(function()))
        code = 0
    except ElasticError as error:
        print(f"error: {error}", flush=True)
        code = CLEAR
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        # what an interpreter does at its end, where a lost process group could hang
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).resolve(), *sys.argv[4:])

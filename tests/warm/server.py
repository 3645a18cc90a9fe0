# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A process with NeMo imported, which computes nothing and forks for each program that `sitecustomize.py` hands over.

python tests/warm/server.py SOCKET PID: it ends where the socket's file or that process is gone.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

#: of a Python without options
FILTERS = [*warnings.filters]
IMPORTED = (
    "nemo.collections.llm", "nemo_run.cli", "nemo_run.core.runners.fdl_runner", "torch.distributed.run",
    "reasoning_gym", "nemo_elastic.hosts.nemo.curriculum.jobs", "nemo_elastic.hosts.nemo.tiny.recipe",
)  # fmt: skip


def serve(address: str, pid: str) -> None:
    """Fork for every connection until the socket's file is taken away, or the process ends that it serves."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{address}.new")
        listening.listen(64)
        os.rename(f"{address}.new", address)  # who can connect is answered
        listening.settimeout(1)
        while Path(address).exists() and Path("/proc", pid).exists():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                connection.settimeout(None)
                keep(connection)
            connection.close()


def keep(connection: socket.socket) -> None:
    """Fork the program itself, pass signals on, and tell how it ended; where nobody listens any more, kill it."""
    head, files, *_ = socket.recv_fds(connection, 4, 250)
    words = b""
    while len(words) < int.from_bytes(head, "big"):
        words += connection.recv(1 << 16)
    pid = os.fork()
    if pid == 0:
        connection.close()
        become(json.loads(words), files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([ended, connection], [], [])
        if ended in ready:
            break
        number = connection.recv(1)
        os.kill(pid, number[0] if number else signal.SIGKILL)
        if not number:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        connection.sendall(code.to_bytes(4, "big", signed=True))
    finally:
        os._exit(0)


def become(program: dict[str, Any], files: list[int]) -> None:
    """Be that program: it never returns."""
    os.setsid()
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 1000) for file in files]  # out of the way of one another
    for file in files:
        os.close(file)
    for file, number in zip(moved, program["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    through = "-u" in program["options"]
    for out in (sys.stdout, sys.stderr):  # NeMo's handlers hold these objects
        out.reconfigure(line_buffering=out is sys.stderr or out.isatty(), write_through=through)
    first = os.path.dirname(program["script"]) if "script" in program else program["cwd"]
    added = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:] = [first, *added, *sys.path[1:]]  # the server's own folder goes
    sys.argv[:] = program["argv"]
    warnings.filters[:] = FILTERS
    if {"ignore", "-Wignore"} & {*program["options"]}:
        warnings.simplefilter("ignore")
    _follow_environment()
    atexit._clear()  # what the server has to clean up is not ours
    code = 1
    try:
        if "code" in program:
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(program["code"], main.__dict__)
        elif "script" in program:
            runpy.run_path(program["script"], run_name="__main__")
        else:
            runpy.run_module(program["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        multiprocessing.util._exit_function()  # of helpers that megatron-core has started for its saves
        for out in (sys.stdout, sys.stderr):
            out.flush()
        os._exit(code)


def _follow_environment() -> None:
    """Set anew what libraries read from the environment when they were imported."""
    from lightning.fabric.utilities import rank_zero as fabric
    from nemo_run.config import set_nemorun_home

    set_nemorun_home(os.environ.get("NEMORUN_HOME", "~/.nemo_run"))
    fabric.rank_zero_module.rank_zero_only.rank = fabric.rank_zero_only.rank = fabric._get_rank() or 0


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in IMPORTED:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a fork shares what no collection touches
    serve(*sys.argv[1:])

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Python imports this at its start. A program that would import NeMo runs as a fork of `server.py`, which has done so.

Importing NeMo takes 14 seconds of a core, and the suite starts about a hundred processes that do; so it is for torch
in the helpers that megatron-core starts by `multiprocessing` for its saves. Where `NEMO_ELASTIC_WARM` names a socket
(and the process whose end is the server's), this process connects to it, gives its arguments, environment, folder and
open files, passes signals on, and ends as the fork ends. See `tests/workers.py` for who asks for it.
"""

import os
import sys

#: modules (after -m) and programs that import NeMo, or start those that do
MODULES = ("nemo_elastic", "nemo_run.core.runners.fdl_runner", "torch.distributed.run", "tests.")
PROGRAMS = ("torchrun", "run.py", "nemo", "nemo-elastic")


def _program() -> dict | None:
    """What this process was started for, where a fork can do it."""
    words = [word for word in sys.orig_argv[1:] if word != "-B"]
    options = []
    while words and words[0].startswith("-"):
        if words[0] == "-m":
            fits = words[1].startswith(MODULES)
            return {"options": options, "module": words[1], "argv": words[1:]} if fits else None
        if words[0] == "-W":
            options += words[:2]
            words = words[2:]
        elif words[0] in ("-u", "-Wignore"):
            options += words[:1]
            words = words[1:]
        elif words[0] == "-c" and words[-1] == "--multiprocessing-fork":
            return {"options": options, "code": words[1], "argv": ["-c", words[-1]]}
        else:
            return None
    fits = words and os.path.basename(words[0]) in PROGRAMS
    return {"options": options, "script": words[0], "argv": words} if fits else None


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:  # that of the list of open files itself
        return False
    return True


def _start(address: str, pid: str):  # socket is imported late
    """The connection to the server, which the first that needs it starts."""
    import fcntl
    import socket
    import subprocess
    import time

    with open(f"{address}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = None
        for _ in range(3000):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(address)
                return connection
            except OSError:
                connection.close()
            if server is None:
                here = os.path.dirname(__file__)
                root = os.path.dirname(os.path.dirname(here))  # this checkout, whichever is installed
                env = {k: v for k, v in os.environ.items() if k != "NEMO_ELASTIC_WARM"} | {"PYTHONPATH": root}
                with open(f"{address}.log", "w") as log:
                    server = subprocess.Popen(
                        [sys.executable, os.path.join(here, "server.py"), address, pid],
                        env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    )  # fmt: skip
            if server.poll() is not None:
                break
            time.sleep(0.1)
    raise RuntimeError(f"{address}.log says why no server of NeMo forks has started")


def _hand_over(address: str, pid: str, program: dict) -> None:
    """Run as a fork of the server, and end as it ends."""
    import json
    import select
    import signal
    import socket

    files = [number for name in os.listdir("/proc/self/fd") if _is_open(number := int(name))]
    connection = _start(address, pid)
    program |= {"cwd": os.getcwd(), "env": dict(os.environ), "files": files}
    words = json.dumps(program).encode()
    socket.send_fds(connection, [len(words).to_bytes(4, "big")], files)
    connection.sendall(words)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    select.select([connection], [], [])
    answer = connection.recv(4)
    if len(answer) < 4:
        os.write(2, b"the server of NeMo forks has gone\n")
        os._exit(1)
    status = int.from_bytes(answer, "big", signed=True)
    if status < 0:  # a signal ended it: so it does this process
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if os.environ.get("NEMO_ELASTIC_WARM") and os.environ.get("OMP_NUM_THREADS") == "1":
    handed = _program()
    if handed is not None:
        try:
            _hand_over(*os.environ["NEMO_ELASTIC_WARM"].rsplit(":", 1), handed)
        except BaseException as error:  # Python would go on with the program itself
            os.write(2, f"no fork with NeMo: {error!r}\n".encode())
            os._exit(1)

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Calls in a process apart, whose memory and time the system bounds: for what a stranger's file can do to a process.

A chat template is a program, and the library that reads tokenizers ends its process where a file surprises it. What
happens to the process apart is one line here. It is started at the first call (by exec, so threads and CUDA do not
mind), serves all that follow one after the other, and ends with this process, however that ends: at the end of its
input. After a call that it did not survive, the next one starts another.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from nemo_elastic.errors import ElasticError

__all__ = ["Exceeded", "apart", "end_apart"]

#: bytes of memory and, where a call does not say, seconds of computing; of waiting so many times as many
MEMORY, SECONDS, PATIENCE = 2**31, 5, 12
_LENGTH = struct.Struct("<Q")
_MAIN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from nemo_elastic.io.apart import serve; serve()"
#: one thread is enough there, and each more reserves memory
_ALONE = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Exceeded(ElasticError):
    """A call took too much time or memory, or ended its process."""


def apart(function: str, *given: Any, seconds: int | None = None) -> Any:
    """Call a function in the process apart.

    Args:
        function: `module:name`; an `ElasticError` of it is raised here again, anything else it raises becomes one.
        given: Its arguments, JSON values.
        seconds: Of computing that it may take; `SECONDS` when None.

    Returns:
        What it returns, a JSON value.

    Raises:
        ElasticError: What it raised; an `Exceeded` where it went beyond the bounds.
    """
    return _process.call(function, given, SECONDS if seconds is None else seconds)


def end_apart() -> None:
    """End the process apart, before this one becomes another program."""
    _process.end()


class _Process:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None

    def call(self, function: str, given: Any, seconds: int) -> Any:
        with self._lock:
            asked, answers = self._start()
            try:
                with suppress(BrokenPipeError):
                    _put(asked, [function, given, seconds])
                answer = _get(answers, time.monotonic() + PATIENCE * seconds)
            except BaseException:  # Ctrl-C: an answer that nobody waits for would be taken for the next one's
                self._end()
                raise
            if answer is None:
                raise Exceeded(_why(self._end(), seconds))
        if "exceeded" in answer:
            raise Exceeded(answer["exceeded"])
        if "error" in answer:
            raise ElasticError(answer["error"], *answer["at"])
        return answer["value"]

    def _start(self) -> tuple[int, int]:
        """Its pipes: for what is asked, and for answers."""
        if self._running is None or self._running.poll() is not None:
            command = [sys.executable, "-I", "-c", _MAIN, json.dumps([str(path) for path in sys.path if path])]
            self._running = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=os.environ | _ALONE, start_new_session=True,  # Ctrl-C is for us
            )  # fmt: skip
        assert self._running.stdin is not None and self._running.stdout is not None
        return self._running.stdin.fileno(), self._running.stdout.fileno()

    def _end(self) -> int | None:
        """End it; gives its exit code where it had ended by itself, None where it was still at work."""
        running, self._running = self._running, None
        if running is None:
            return None
        assert running.stdout is not None
        with running:  # closes its pipes, and waits
            if _is_ready(running.stdout.fileno(), 0):  # it has closed its answers
                with suppress(subprocess.TimeoutExpired):
                    return running.wait(1)
            running.kill()
        return None

    def end(self) -> None:
        with self._lock:
            self._end()

    def forget(self) -> None:
        """In a fork: the process is our parent's."""
        if self._running is not None:
            self._running.returncode = 0  # nobody to wait for
        self._lock, self._running = threading.Lock(), None


def _is_ready(pipe: int, seconds: float) -> bool:
    """Whether there is something to read, or the end, within some seconds."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(max(0, 1000 * seconds)))


def _put(pipe: int, value: Any) -> None:
    content = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    left = memoryview(_LENGTH.pack(len(content)) + content)
    while left:
        left = left[os.write(pipe, left) :]


def _get(pipe: int, until: float | None = None) -> Any:
    """The next value; None at the end, or where it has not come in time."""
    length = _read(pipe, _LENGTH.size, until)
    content = None if length is None else _read(pipe, _LENGTH.unpack(length)[0], until)
    return None if content is None else json.loads(content.decode("utf-8", "surrogatepass"))


def _read(pipe: int, count: int, until: float | None) -> bytes | None:
    content = bytearray()
    while len(content) < count:
        if until is not None and not _is_ready(pipe, until - time.monotonic()):
            return None
        piece = os.read(pipe, min(count - len(content), 2**20))
        if not piece:
            return None
        content += piece
    return bytes(content)


def _why(code: int | None, seconds: int) -> str:
    if code is None or code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"takes more than {seconds} seconds of computing"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"ends the process that reads it ({name})"


def serve() -> None:
    """What the process apart does: it answers calls until its input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    _limit(resource.RLIMIT_AS, MEMORY)
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        _limit(what, 0)
    while (asked := _get(0)) is not None:
        _put(answers, _answer(*asked))


def _answer(function: str, given: list[Any], seconds: int) -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)
    try:
        module, _, name = function.partition(":")
        return {"value": getattr(importlib.import_module(module), name)(*given)}
    except ElasticError as exc:
        return {"error": exc.said, "at": exc.at}
    except MemoryError:
        return {"exceeded": f"takes more than {MEMORY >> 20} MiB of memory"}
    except BaseException as exc:  # a panic of Rust's is no Exception
        return {"error": str(exc)[:4000] or type(exc).__name__, "at": []}


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


_process = _Process()
atexit.register(_process.end)
os.register_at_fork(after_in_child=_process.forget)

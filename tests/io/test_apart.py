# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Calls in a process apart: answered in turn, bounded, and survived, whatever happens to that process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.io import apart as module
from nemo_elastic.io.apart import apart, end_apart

HERE = "tests.io.test_apart"
ROOT = Path(__file__).parents[2]


def double(value):
    return value * 2


def number() -> int:
    return os.getpid()


def refuse() -> None:
    raise ElasticError("no", "a field")


def panic() -> None:
    raise BaseException("panicked at\nline 1")


def hang() -> None:
    while True:
        pass


def fill() -> None:
    bytearray(2**33)


def end(code: int) -> None:
    os._exit(code)


def abort() -> None:
    os.abort()


def write(path: str) -> None:
    Path(path).write_text("x")


@pytest.mark.parametrize("value", [1, "é\ud800\n", ["a", None, 1.5], "x" * 3_000_000])
def test_a_value_comes_back(value):
    assert apart(f"{HERE}:double", value if value is not None else 0) == value * 2


def test_one_process_answers_all_and_what_it_did_not_survive_ends_it_alone():
    first = apart(f"{HERE}:number")
    assert apart(f"{HERE}:number") == first != os.getpid()
    with pytest.raises(ElasticError, match=r"^ends the process that reads it \(SIGABRT\)$"):
        apart(f"{HERE}:abort")
    assert apart(f"{HERE}:number") not in (first, os.getpid())


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (("refuse",), "a field: no"),
        (("panic",), "panicked at line 1"),
        (("hang",), "takes more than 1 seconds of computing"),
        (("fill",), "takes more than 2048 MiB of memory"),
        (("end", 3), "ends the process that reads it (exit code 3)"),
        (("nothing",), f"module '{HERE}' has no attribute 'nothing'"),
    ],
)
def test_what_happens_there_is_one_line_here(call, line):
    with pytest.raises(ElasticError) as raised:
        apart(f"{HERE}:{call[0]}", *call[1:], seconds=1)
    assert str(raised.value) == line
    assert apart(f"{HERE}:double", 2) == 4


def test_it_writes_no_file(tmp_path):
    with pytest.raises(ElasticError):
        apart(f"{HERE}:write", str(tmp_path / "a"))
    assert not (tmp_path / "a").exists() or not (tmp_path / "a").stat().st_size


def test_threads_get_their_own_answers():
    seen: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i: seen.update({i: [apart(f"{HERE}:double", i) for _ in range(50)]}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {i: [2 * i] * 50 for i in range(4)}


def test_a_fork_has_a_process_of_its_own():
    mine = apart(f"{HERE}:number")
    read, written = os.pipe()
    child = os.fork()
    if not child:
        os.write(written, str(apart(f"{HERE}:number")).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read, 20)) != mine == apart(f"{HERE}:number")


SCRIPT = """
import os, signal, sys
from nemo_elastic.io.apart import apart
print(apart("os:getpid"), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_it_ends_with_whoever_called(how):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    number = int(done.stdout)
    for _ in range(200):
        if not Path(f"/proc/{number}").exists() or "Z" in Path(f"/proc/{number}/stat").read_text().split()[2]:
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("it is still there")


def test_it_can_be_ended_before_this_one_becomes_another_program():
    number = apart(f"{HERE}:number")
    end_apart()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert module._process._running is None
    assert apart(f"{HERE}:double", 1) == 2

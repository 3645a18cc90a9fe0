# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs end with the script that started them; `tests/recipes/test_tiny.py` presses Ctrl-C in a real training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.workers import ROOT

pytestmark = pytest.mark.nemo
#: one process of another's before; then two jobs, each in a session of its own with a rank in it; `deaf` ones go on,
#: and a `late` one is started by a job that ends with it
SCRIPT = """
import subprocess, sys
from nemo_elastic.errors import exit_in_one_line
from nemo_elastic.hosts.common import local_jobs

DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN);"
READY = "import os; open(f'ready-{os.getpid()}', 'w').close();"
RANK = (DEAF if "deaf" in sys.argv else "") + READY + "import time; time.sleep(600)"
JOB = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {RANK!r}])"
if "late" in sys.argv:
    START = f"lambda *_: (subprocess.Popen([sys.executable, '-c', {RANK!r}]), os._exit(1))"
    JOB = f"import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, {START}); {READY} time.sleep(600)"
local_jobs.PATIENCE = 60 if "hears" in sys.argv else 2

def start(code):
    null = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=null, stderr=null)

other = start("import time; time.sleep(600)")
print(other.pid, flush=True)
with exit_in_one_line(), local_jobs.jobs_end_with_this():
    jobs = [start(JOB) for _ in range(2)]
    if "fails" in sys.argv:
        sys.stdin.readline()
        raise RuntimeError("a bug")
    print("running", flush=True)
    jobs[0].wait()
    print("went on", flush=True)
"""


@pytest.mark.parametrize(
    ("options", "number", "code"),
    [
        (["hears"], signal.SIGINT, 130),
        (["fails"], None, 1),
        (["deaf", "late"], signal.SIGTERM, 143),
    ],
)
def test_no_rank_outlives_its_script(tmp_path: Path, options: list[str], number: int | None, code: int) -> None:
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *options], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert script.stdout is not None
    other = psutil.Process(int(script.stdout.readline()))
    try:
        end, ranks, count = (
            time.monotonic() + 600,
            [],
            3 if "late" in options else 5,
        )  # the other, two jobs, their ranks
        while len(ranks) < count and time.monotonic() < end:
            ranks = psutil.Process(script.pid).children(recursive=True)
        assert len(ranks) == count
        while len(list(tmp_path.glob("ready-*"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)  # each has its handlers then
        if number is not None:
            script.send_signal(number)
        message, errors = script.communicate("now\n" if "fails" in options else None, timeout=1800)
        assert script.returncode == code, errors
        assert "went on" not in message and ("Traceback" in errors) is (number is None)
        sessions = {r.pid for r in ranks if r != other}  # of the jobs; a rank's number is nobody's session
        assert [p for p in psutil.process_iter() if _runs_in(p, sessions)] == []
        assert other.is_running(), "what the script had started before is not a job"
    finally:
        other.kill()


def _runs_in(process: psutil.Process, sessions: set[int]) -> bool:
    try:
        return os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False

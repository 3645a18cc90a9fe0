# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A run of the tests in the background hears Ctrl-C as one in the foreground does, and leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RUN, left_by
from tests.workers import ROOT

#: a suite of one test: a program that is interrupted, and two that nobody ends
SUITE = """
import os, signal, subprocess, sys, time

def start(code, **more):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **more)

def test_it():
    start("import time; time.sleep(600)", start_new_session=True)
    start("import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])").wait()
    waits = start("import time; print(1, flush=True); time.sleep(600)")
    waits.stdout.readline()
    waits.send_signal(signal.SIGINT)
    assert waits.wait() == -signal.SIGINT
    print("run", os.environ["NEMO_ELASTIC_TEST_RUN"])
"""


@pytest.mark.parametrize("workers", [pytest.param([], marks=pytest.mark.long), ["-n", "1"]], ids=["alone", "worker"])
def test_a_run_with_sigint_ignored_hears_it_and_leaves_no_process(tmp_path: Path, workers: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    own = ["-p", "tests.conftest", "-rP", "--rootdir", tmp_path, *workers, tmp_path]
    env = {k: v for k, v in os.environ.items() if k not in (RUN, "NEMO_ELASTIC_WARM") and "XDIST" not in k}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *own], cwd=ROOT, env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=1800,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    (run,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("run ")]
    assert done.stdout.count("killed: ") == 2 and left_by(run) == []

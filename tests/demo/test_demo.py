# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic demo` as a command: Ctrl-C while it trains, what it leaves then, and what it prints."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_elastic.history import METRICS
from tests.slicing.helpers import call
from tests.workers import environment

pytestmark = [pytest.mark.nemo, pytest.mark.slow]


def start(out: Path, steps: int, *options: str) -> subprocess.Popen[bytes]:
    """Start a demo; what it says goes to files beside `out`: a pipe that nobody reads would stop it."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.demo.brief", str(steps)]
    command += ["demo", "--short", "--out", str(out), *options]
    with open(out.with_suffix(".out"), "w") as log, open(out.with_suffix(".err"), "w") as errors:
        return subprocess.Popen(command, cwd=out.parent, env=environment(), stdout=log, stderr=errors)


@pytest.mark.long
def test_ctrl_c_in_training_ends_it_with_130_and_leaves_what_there_is(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    running, metrics, end = start(out, 100_000), out / "parent" / METRICS, time.monotonic() + 900
    while running.poll() is None and time.monotonic() < end:
        if metrics.exists() and metrics.read_text().count('"kind": "step"') > 1:
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    code, errors = running.wait(900), out.with_suffix(".err").read_text()
    assert code == 130, errors[-3000:]
    assert errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors
    before = metrics.read_text()
    assert call("demo", "--out", out) == (2, f"error: {out}: already exists; --force replaces it\n")
    assert metrics.read_text() == before


def test_it_prints_its_members_as_json_and_nothing_beside(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    code, errors = start(out, 4, "--json").wait(1200), out.with_suffix(".err").read_text()
    assert code == 0, errors[-3000:]
    printed = json.loads(out.with_suffix(".out").read_text())
    assert printed.pop("out") == str(out)
    assert printed == json.loads((out / "metrics.json").read_text())
    assert [m["name"] for m in printed["members"]] == ["parent", "1.6m", "1.1m", "0.8m"]
    assert "first picture: " in errors and "importance: " in errors
    assert re.search(r"^stage 1 \(4 of 8\): ", errors, re.M), errors
    assert "members: held-out loss" in errors and " above the parent: " in errors, "a person sees the same as ever"
    assert len(errors.splitlines()) <= 60, errors
    log = (out / "demo.log").read_text()
    assert "search: " in log and "held-out loss: 1/" in log, "what the steps print"
    assert "search: " not in errors and "held-out loss: 1/" not in errors

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic demo` as a command: Ctrl-C while it trains, what it leaves then, and what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_elastic.history import METRICS
from tests.export.helpers import call

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.nemo, pytest.mark.slow]
#: the demo with almost no steps: every part of it, and nothing learned
BRIEF = """
import sys
from dataclasses import replace
from nemo_elastic.cli import main
from nemo_elastic.demo import settings
settings.SHORT = replace(settings.SHORT, parent_steps=int(sys.argv[1]), stage1_steps=4, stage2_steps=2, vocab=300,
                         eval_every=0, eval_tokens=1024, problems=2)
main(sys.argv[2:])
"""


def demo(out: Path, steps: int, *options: str) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-W", "ignore", "-c", BRIEF, str(steps), "demo", "--short", "--out", str(out), *options]
    return subprocess.Popen(
        command, cwd=out.parent, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_ctrl_c_in_training_ends_it_with_130_and_leaves_what_there_is(tmp_path: Path) -> None:
    running = demo(tmp_path / "demo", 100_000)
    metrics = tmp_path / "demo" / "parent" / METRICS
    while running.poll() is None and not (metrics.exists() and metrics.read_text().count('"step"') > 3):
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    told, errors = running.communicate(timeout=600)
    assert running.returncode == 130, told + errors
    assert errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors
    before = metrics.read_text()
    assert call("demo", "--out", tmp_path / "demo") == (
        2, f"error: {tmp_path}/demo: already exists; --force replaces it\n"
    )  # fmt: skip
    assert metrics.read_text() == before


def test_it_prints_its_members_as_json_and_nothing_beside(tmp_path: Path) -> None:
    running = demo(tmp_path / "demo", 4, "--json")
    told, errors = running.communicate(timeout=1200)
    assert running.returncode == 0, errors[-3000:]
    printed = json.loads(told)
    assert printed.pop("out") == str(tmp_path / "demo")
    assert printed == json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert [m["name"] for m in printed["members"]] == ["parent", "1.6m", "1.1m", "0.8m"]
    assert "stage 1" in errors and "members: held-out loss" in errors, "a person sees the same as ever"

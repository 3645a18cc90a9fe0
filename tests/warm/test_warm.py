# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A fork of the process that has imported NeMo is, to who starts it, the program itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers import ROOT, environment

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif("NEMO_ELASTIC_WARM" not in os.environ, reason="forks need Linux and NeMo"),
]
BOTH = pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])


def start(way: str, folder: Path, warm: bool) -> subprocess.Popen[str]:
    env = environment(ONE="1") if warm else environment(ONE="1", PYTHONPATH=str(ROOT))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.warm.probe", way, "ä b", "--c"], cwd=folder, env=env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@BOTH
@pytest.mark.parametrize(
    ("way", "code", "said"),
    [
        ("well", 0, ""), ("code", 7, ""), ("words", 1, "it ends so\n"), ("killed", -signal.SIGKILL, ""),
        ("bug", 1, "ZeroDivisionError: ours\n"),
    ],
)  # fmt: skip
def test_arguments_environment_streams_and_end(tmp_path: Path, way: str, code: int, said: str, warm: bool) -> None:
    program = start(way, tmp_path, warm)
    out, errors = program.communicate("asked\n", timeout=1800)
    facts = json.loads(out)
    assert (facts["argv"], facts["cwd"], facts["read"]) == ([way, "ä b", "--c"], str(tmp_path), "asked\n")
    given = environment(ONE="1") if warm else environment(ONE="1", PYTHONPATH=str(ROOT))
    for held in (given, facts["env"]):
        held.pop("LC_CTYPE", None)  # Python sets its own where the environment has no locale
    assert {k: v for k, v in facts["env"].items() if k in given} == given and facts["env"].keys() <= given.keys()
    assert facts["first"] == str(tmp_path) and facts["nemo"] == warm
    assert (program.returncode, errors.startswith("an error\n"), errors.endswith(said)) == (code, True, True)


@BOTH
def test_a_process_that_it_spawns_knows_its_functions(tmp_path: Path, warm: bool) -> None:
    out, errors = start("spawn", tmp_path, warm).communicate("", timeout=1800)
    assert json.loads(out.splitlines()[-1]) == [9, warm], errors


@BOTH
def test_a_signal_reaches_it(tmp_path: Path, warm: bool) -> None:
    program = start("interrupted", tmp_path, warm)
    assert program.stdin and program.stdout
    program.stdin.close()
    json.loads(program.stdout.readline())
    assert program.stdout.readline() == "waits\n"
    program.send_signal(signal.SIGINT)
    assert (program.stdout.readline(), program.wait(600)) == ("interrupted\n", 130)


def test_who_started_it_is_killed_and_so_is_it(tmp_path: Path) -> None:
    program = start("interrupted", tmp_path, warm=True)
    assert program.stdin and program.stdout
    program.stdin.close()
    json.loads(program.stdout.readline())
    assert program.stdout.readline() == "waits\n"
    program.kill()
    assert program.stdout.read() == "" and program.wait(600) == -signal.SIGKILL, "its streams have ended"

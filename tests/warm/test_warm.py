# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A fork of the process that has imported NeMo is, to who starts it, the program itself.

python -m tests.warm.test_warm WAY: the program, which says what it finds, and ends as it is asked to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workers import ROOT, environment

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif("NEMO_ELASTIC_WARM" not in os.environ, reason="forks need Linux and NeMo"),
]


def start(way: str, folder: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.warm.test_warm", way, "ä b", "--c"], cwd=folder, env=env,
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("way", "code"), [("well", 0), ("code", 7), ("words", 1), ("killed", -signal.SIGKILL), ("bug", 1), ("hears", 130)]
)
def test_it_is_given_what_a_process_is_given_and_ends_as_that_ends(tmp_path: Path, way: str, code: int) -> None:
    seen = []
    for given in (environment(ONE="1"), environment(ONE="1", PYTHONPATH=str(ROOT))):
        program = start(way, tmp_path, given)
        assert program.stdin and program.stdout and program.stderr
        program.stdin.write("asked\n")
        program.stdin.close()
        facts = json.loads(program.stdout.readline())
        assert facts.pop("nemo") == (not seen), "the first is a fork"
        assert {name: facts["env"].get(name) for name in given if name != "LC_CTYPE"} == {
            name: value for name, value in given.items() if name != "LC_CTYPE"
        }
        del facts["env"]
        if way == "hears":
            program.send_signal(signal.SIGINT)
        said = program.stderr.read().splitlines()
        seen.append((facts, said[:1], said[-1:], program.wait(600)))
    assert seen[0] == seen[1] and seen[0][-1] == code
    assert seen[0][0] == {"argv": [way, "ä b", "--c"], "cwd": str(tmp_path), "first": str(tmp_path), "read": "asked\n"}


def test_who_started_it_is_killed_and_so_is_it(tmp_path: Path) -> None:
    program = start("hears", tmp_path, environment(ONE="1"))
    assert program.stdin and program.stdout
    program.stdin.close()
    assert program.stdout.readline()
    program.kill()
    assert program.stdout.read() == "" and program.wait(600) == -signal.SIGKILL, "its streams have ended"


def main(way: str) -> None:
    facts = {"argv": sys.argv[1:], "cwd": os.getcwd(), "first": sys.path[0], "read": sys.stdin.read()}
    facts |= {"env": dict(os.environ), "nemo": "nemo.collections.llm" in sys.modules}
    print("an error", file=sys.stderr, flush=True)
    if way == "hears":
        try:
            print(json.dumps(facts), flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            sys.exit(130)
    print(json.dumps(facts), flush=True)
    if way == "code":
        sys.exit(7)
    if way == "words":
        sys.exit("it ends so")
    if way == "bug":
        raise ZeroDivisionError("ours")
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What of a host's output reaches the terminal; each in a process of its own, as a command starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers import environment

LOGS = "from nemo_elastic.hosts.common.logs import errors_alone, import_quietly, lines_to\n"


def run(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOGS + script]
    return subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, timeout=60)


def test_a_host_logs_to_its_file_and_errors_reach_the_terminal(tmp_path: Path) -> None:
    script = """
import logging
logger = logging.getLogger("host")
logger.setLevel(logging.INFO)
logger.addHandler(logging.StreamHandler())
logger.addHandler(logging.FileHandler("log.txt"))
errors_alone()
logger.info("process groups")
logging.getLogger("neighbour").warning("no kernel")
logger.error("a rank died")
print("  search: 1/2 candidates")
"""
    done = run(script, tmp_path)
    assert (done.stdout, set(done.stderr.splitlines())) == ("  search: 1/2 candidates\n", {"a rank died"})
    assert (tmp_path / "log.txt").read_text() == "process groups\na rank died\n"


@pytest.mark.parametrize("fails", [False, True])
def test_a_host_that_prints_has_a_file_and_our_lines_the_terminal(tmp_path: Path, fails: bool) -> None:
    script = f"""
import logging, os, pathlib, warnings
from nemo_elastic.io.terminal import say
with lines_to(pathlib.Path("run", "log.txt")):
    logging.getLogger().setLevel(logging.INFO)
    print("boxes")
    os.system("echo from C")
    logging.info("buckets")
    warnings.warn("no kernel")
    logging.error("a rank died")
    say("  search: 1/2 candidates")
    if {fails}:
        raise RuntimeError("no memory")
print("after")
"""
    done = run(script, tmp_path)
    assert done.stdout.splitlines() == ["  search: 1/2 candidates", *([] if fails else ["after"])]
    first, *rest = done.stderr.splitlines()
    assert first == "a rank died" and (rest[-1:] == ["RuntimeError: no memory"]) is fails
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(line in log for line in ("boxes", "from C", "buckets", "no kernel", "a rank died"))
    assert "search" not in log and "after" not in log


@pytest.mark.parametrize("fails", [False, True])
def test_what_an_import_prints_is_shown_where_it_fails(tmp_path: Path, fails: bool) -> None:
    script = f"""
import os, sys
with import_quietly():
    print("no kernel")
    os.system("echo from C")
    if {fails}:
        raise ImportError("no host")
print("trains")
"""
    done = run(script, tmp_path)
    shown = [line for line in ("no kernel", "from C") if line in done.stdout + done.stderr]
    assert shown == (["no kernel", "from C"] if fails else [])
    assert ("ImportError: no host" in done.stderr) is fails and (done.stdout == "trains\n") is not fails


def test_a_refused_value_is_shown_without_what_an_import_printed(tmp_path: Path) -> None:
    script = """
from nemo_elastic.errors import bad
with import_quietly():
    print("no kernel")
    raise bad("data", 1, "a folder")
"""
    done = run(script, tmp_path)
    assert "no kernel" not in done.stdout + done.stderr and "data: 1 is not allowed" in done.stderr

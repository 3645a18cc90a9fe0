# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What libraries and jobs print goes to a file, whichever way they print it; a command's own lines stay."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from tests.workers import environment

#: every way in which a library is known to print
NOISE = """
import logging, os, subprocess, sys, time
from pathlib import Path
from rich.console import Console
from nemo_elastic.cli.log_capture import LogCapture
log = Path(sys.argv[1])
logging.basicConfig()
bound = Console(file=sys.stdout)
def noise(what):
    print(what, "print")
    logging.warning("%s logging", what)
    bound.print(what, "console")
    os.write(1, f"{what} descriptor\\n".encode())
    subprocess.run(["sh", "-c", f"echo {what} child; echo {what} error >&2"], check=True)
"""
QUIET = """
try:
    with LogCapture() as capture:
        noise("early")
        capture.keep(log)
        with capture.timed("work"):
            noise("late")
            capture.out.print("own")
        raise KeyError("seen")
except KeyError as error:
    print("after", error.args)
    sys.stderr.write("restored\\n")
"""
MOVING = """
with LogCapture() as capture:
    capture.keep(log)
    print("  before: step 9/9")
    with capture.timed("stage 1"):
        time.sleep(0.7)
        print("library's own"); print("  stage 1: step 3/8  loss 2.5    4 s left")
        while not Path(sys.argv[1]).with_name("seen").exists():
            time.sleep(0.05)
"""


def python(code: str, log: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NOISE + code, str(log)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=True)


def test_every_way_of_printing_ends_in_the_file_and_own_lines_on_the_screen(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    done = python(QUIET, log)
    assert done.stdout.splitlines() == ["own", "after ('seen',)"]
    where, first, second, third = done.stderr.splitlines()
    assert where.endswith(f": {log}") and (first, third) == ("work …", "restored")
    assert re.fullmatch(r"work  \d+ s", second)
    lines = log.read_text().splitlines()
    for what in ("early", "late"):
        ways = {"print", "console", "descriptor", "child", "error"}
        assert {f"{what} {way}" for way in ways} | {f"WARNING:root:{what} logging"} <= set(lines)
    assert lines.index("early child") < lines.index("late print") and len(lines) == 12


def test_a_locale_without_utf8_ends_nothing(tmp_path: Path) -> None:
    plain = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    command = [
        sys.executable,
        "-c",
        NOISE + "with LogCapture() as log: log.out.print('reading \\u2026')",
        "a.log",
    ]
    done = subprocess.run(command, env=plain, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "reading \\u2026\n"), done.stderr


def test_a_terminal_has_one_line_that_moves(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    env = environment(TERM="xterm", COLUMNS="100")
    command = [sys.executable, "-c", NOISE + MOVING, str(tmp_path / "a.log")]
    with subprocess.Popen(command, env=env, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += (piece := os.read(ours, 4096))
                if b"step 3/8" in shown:
                    (tmp_path / "seen").touch()  # it goes on when the line has been there
            except OSError:  # a terminal that nobody writes to any more
                break
            if not piece:
                break
    os.close(ours)
    text = shown.decode()
    assert running.returncode == 0, text
    assert re.search(r"stage 1  \d+ s  \(stage 1: step 3/8  loss 2\.5\)", text), text
    assert "library's own" not in text and "before: step" not in text, "that was another step's"
    assert text.count("\n") <= 3, text

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tutorial's commands print what docs/start.md shows below them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "start.md"
#: commands, and what they print
PAIR = re.compile(r"```bash\n((?:(?!```).)*?)```\n(?:(?!```).)*?\n```text\n((?:(?!```).)*)```", re.DOTALL)
#: what another processor computes a little differently
COMPUTED = re.compile(r"\d+\.\d+(e[-+]\d+)?")


def test_it_is_what_its_commands_print(tmp_path: Path) -> None:
    pairs = PAIR.findall(PAGE.read_text(encoding="utf-8"))
    assert len(pairs) == 2
    for commands, shown in pairs:
        printed = ""
        for line in re.findall(r"^nemo-elastic (.*)", commands, re.MULTILINE):
            command = [sys.executable, "-m", "nemo_elastic", *line.split()]
            env = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
            ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
            printed += "".join(f"{row.rstrip()}\n" for row in ran.stdout.splitlines())
        assert COMPUTED.sub("#", printed) == COMPUTED.sub("#", shown)

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Run the tutorial's commands of our own and put what they print below them: `.venv/bin/python tools/tutorial.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "start.md"
#: commands, what stands between, and what they print
PAIR = re.compile(r"(?<=```bash\n)((?:(?!```).)*?)(```\n(?:(?!```).)*?\n```text\n)((?:(?!```).)*)(?=```)", re.DOTALL)
OURS = "nemo-elastic "


def page(text: str, place: Path) -> str:
    """The page with what its commands print in a folder."""
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}

    def printed(pair: re.Match[str]) -> str:
        out = ""
        for line in pair[1].splitlines():
            if line.startswith(OURS):
                command = [sys.executable, "-m", "nemo_elastic", *line.removeprefix(OURS).split()]
                ran = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=True)
                out += "".join(f"{row.rstrip()}\n" for row in ran.stdout.splitlines())
        return f"{pair[1]}{pair[2]}{out}"

    return PAIR.sub(printed, text)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(PAGE.read_text(), Path(folder)))

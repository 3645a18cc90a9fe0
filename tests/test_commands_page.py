# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""docs/commands.md: made by its tool, and with every option that a command prints in its help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_elastic.cli.app import COMMANDS, load_command

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    tool = ROOT / "tools" / "command_reference.py"
    done = subprocess.run([sys.executable, tool], capture_output=True, text=True, check=True)
    assert done.stdout == PAGE, ".venv/bin/python tools/command_reference.py > docs/commands.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_the_parser_is_on_the_page(name: str) -> None:
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    command = load_command(name)
    report = set(re.findall(r"^\| `([\w-]+)`", section, re.MULTILINE)) | set(re.findall(r"`(--[\w-]+|-\w)`", section))
    for parameter in command.params:
        if "--help" not in parameter.opts and not getattr(parameter, "hidden", False):
            names = (
                [*parameter.opts, *parameter.secondary_opts]
                if parameter.param_type_name == "option"
                else [parameter.name]
            )
            assert set(names) <= report
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert all(line.rstrip("| ").count("|") >= 4 for line in rows), "each says what it means"

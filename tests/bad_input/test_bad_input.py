# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The catalogue of bad input: each case is one line, exit code 2, and nothing that was not there before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.cli import main
from nemo_elastic.cli.app import COMMANDS
from tests.slicing.helpers import contents

from .case import Case, Originals, read_cases

CASES = read_cases()
LARGEST = 2**24


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    return Originals(tmp_path_factory.mktemp("originals"))


def _name(case: Case) -> str:
    return f"{case.arguments[0]}: {case.says}"


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=_name(c), marks=[pytest.mark.nemo] if c.nemo else []) for c in CASES]
)
def test_bad_input_is_one_line_and_leaves_nothing(
    case: Case, originals: Originals, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    originals.copy(case.names, tmp_path)
    case.damage(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*")), contents(tmp_path, LARGEST)
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        main(case.arguments)
    printed = capfd.readouterr()
    lines = [line.replace(f"{tmp_path}/", "").replace(str(tmp_path), ".") for line in printed.err.splitlines()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    assert left.value.code == 2, printed
    assert len(said) == 1 and re.match(".*".join(map(re.escape, case.says.split("…"))), said[0]), lines
    # NeMo has words of its own, and `data` a bar
    assert case.nemo or printed.out == ""
    assert case.nemo or len(lines) == 1 or (case.arguments[0] == "data" and lines[-1] == f"error: {said[0]}")
    assert (sorted(tmp_path.rglob("*")), contents(tmp_path, LARGEST)) == before


def test_every_command_that_reads_anything_has_cases() -> None:
    assert {case.arguments[0] for case in CASES} == set(COMMANDS) - {"doctor"}  # which take no input

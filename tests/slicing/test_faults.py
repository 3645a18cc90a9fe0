# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever happens while a member is cut: no folder looks whole and is not, one clear line, a second try works.

What is broken in a source is in `test_source_folders.py` and `tests/formats`; that a kill at every single step does no
harm, and what --force replaces, in `tests/io`; kills of the commands at random moments in `tests/parallel/soak.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from tests.shapes import PARENT

from .helpers import random_values, write

ROOT = Path(__file__).parents[2]
MEMBERS = {"small": PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small") / "family", PARENT, MEMBERS, tensors=random_values(PARENT))


def test_a_second_try_that_is_refused_clears_up_as_well(family, tmp_path, run):
    leftovers = [tmp_path / ".out.0123abcd.tmp", tmp_path / ".out.0123abcd.lock"]
    slice_checkpoint(family, tmp_path / "out", member="small")
    leftovers[0].mkdir()
    leftovers[1].touch()
    code, _, err = run("slice", family, "--member", "small", "--out", tmp_path / "out")
    assert code == 2 and "already exists" in err and names(tmp_path) == ["out"]


def scenario(name: str, family: Path, place: Path) -> list[dict]:
    """Run one of `fault_worker.py` in a name space where it may mount."""
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    place.mkdir()
    try:
        tried = subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed, so nothing can be mounted")
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    command = [*alone, sys.executable, "-m", "tests.slicing.fault_worker", name, str(family), str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert names(place) == []  # what was mounted is gone
    return json.loads(done.stdout)


def check(reports: list[dict], *expected: tuple[int, str, list[str]]) -> None:
    """Each command's exit code, what its one line has, and the names that it left."""
    assert len(reports) == len(expected)
    for got, (code, error, left) in zip(reports, expected):
        assert (got["code"], got["names"]) == (code, left), got
        assert error in got["error"] and len(got["error"].splitlines()) == (code != 0), got


def test_a_disk_that_fills_up_on_the_way(family, tmp_path):
    output = scenario("full_midway", family, tmp_path / "disk")
    line = f"error: {tmp_path / 'disk' / 'cut'}: no space left on the disk; nothing was changed there"
    check(output, (0, "", ["cut"]), (2, line, ["cut"]), *[(0, "", ["cut"])] * 3)


def test_a_target_that_is_read_only(family, tmp_path):
    place = tmp_path / "disk"
    output = scenario("read_only", family, place)
    check(
        output,
        (2, f"error: {place / 'cut'}: cannot be written (Read-only file system: {place})", []),
        (2, f"error: {place / 'deep' / 'cut'}: cannot be written (Read-only file system: {place})", []),
        (0, "", ["cut"]),
        (2, f"error: {place / 'cut'}: cannot be written (Read-only file system: {place})", ["cut"]),
        (0, "", ["cut"]),
        (0, "", ["cut"]),
    )

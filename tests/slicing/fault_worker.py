# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Mounts small and read-only file systems, and runs our commands on them. In a name space of its own: nothing stays.

Usage: unshare --user --map-root-user --mount python fault_worker.py SCENARIO FAMILY PLACE. Prints one line of JSON: a
list of what happened, one entry a command: its exit code, its error text, and the names in its target's folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .helpers import call

Report = dict[str, Any]
PAGE = 4096


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def run(place: Path, *arguments: object) -> Report:
    """Run a command of ours, and look into `place` afterwards."""
    code, error = call(*arguments)
    return {"code": code, "error": error, "names": sorted(p.name for p in place.iterdir())}


def weights(family: Path) -> int:
    """Bytes that the tensors of the whole family take."""
    files = family.glob("*.safetensors")
    return sum(p.stat().st_size - 8 - int.from_bytes(p.read_bytes()[:8], "little") for p in files)


def full_midway(family: Path, place: Path) -> Iterator[Report]:
    """Room for the weights, as far as can be known before, and for nothing else; beside an older output."""
    parts = (weights(family), (family / "model.safetensors").stat().st_size - weights(family))  # and their header
    # the two small files that are written first have a page each
    need = sum(-(-part // PAGE) * PAGE for part in parts)
    mount("-t", "tmpfs", "-o", "size=50m", "tmpfs", str(place))
    yield run(place, "slice", family, "--member", "small", "--out", place / "cut")
    disk = os.statvfs(place)
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    mount("-o", f"remount,size={used + need + 2 * PAGE}", str(place))
    yield run(place, "slice", family, "--member", "full", "--out", place / "cut", "--force")
    yield run(place, "verify", place / "cut", "--no-forward")
    mount("-o", "remount,size=50m", str(place))
    yield run(place, "slice", family, "--member", "full", "--out", place / "cut", "--force")
    yield run(place, "verify", place / "cut", "--no-forward")


def read_only(family: Path, place: Path) -> Iterator[Report]:
    """A target that cannot be written, until it can; a source that cannot be written, which is no trouble."""
    mount("-t", "tmpfs", "-o", "ro", "tmpfs", str(place))
    yield run(place, "slice", family, "--member", "small", "--out", place / "cut")
    yield run(place, "slice", family, "--member", "small", "--out", place / "deep" / "cut")
    mount("-o", "remount,rw", str(place))
    yield run(place, "slice", family, "--member", "small", "--out", place / "cut")
    mount("-o", "remount,ro", str(place))
    yield run(place, "slice", family, "--member", "full", "--out", place / "cut", "--force")
    yield run(place, "verify", place / "cut", "--no-forward")
    yield run(place, "slice", place / "cut", "--member", "small", "--out", family.parent / "from read-only")


if __name__ == "__main__":
    scenarios = {"full_midway": full_midway, "read_only": read_only}
    print(json.dumps(list(scenarios[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3])))))

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever happens while a member is cut: no folder looks whole and is not, one clear line, a second try works.

What is broken in a source is in `test_source_folders.py` and `tests/formats`; that a kill at every single step does no
harm, and what --force replaces, in `tests/io`; kills of the commands at random moments in `tests/parallel/soak.py`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nemo_elastic import slice_checkpoint
from nemo_elastic.cli import main
from nemo_elastic.formats.folders import open_source
from nemo_elastic.slicing.verification import verify
from tests.bad_input.case import LARGE as LARGE_BLOCK
from tests.shapes import PARENT

from .helpers import random_values, write

ROOT = Path(__file__).parents[2]
MEMBERS = {"small": PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def in_child(action: Callable[[], object]) -> tuple[int, str]:
    """Run it in a child: its exit code (99 is a traceback), and what it said on stderr."""
    read, written = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(written, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        code = 99
        try:
            action()
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(written)
    with open(read) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


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


def test_a_full_disk(family, tmp_path):
    output = scenario("full", family, tmp_path / "disk")
    line = "error: no space left on the disk: "
    check(output, (2, line, []), (0, "", ["cut"]), (0, "", ["cut"]))
    assert " bytes are needed and " in output[0]["error"] and output[0]["error"].endswith(" free\n")


def test_a_disk_that_fills_up_on_the_way(family, tmp_path):
    output = scenario("full_midway", family, tmp_path / "disk")
    line = f"error: {tmp_path / 'disk' / 'cut'}: no space left on the disk; nothing was changed there"
    check(output, (0, "", ["cut"]), (2, line, ["cut"]), *[(0, "", ["cut"])] * 3)


@pytest.mark.nemo
@pytest.mark.slow
@pytest.mark.long
def test_a_full_disk_in_the_format_of_nemo(family, tmp_path):
    shutil.copytree(family, tmp_path / "family")
    (tmp_path / "elastic.yaml").write_text(yaml.safe_dump(LARGE_BLOCK))
    output = scenario("full_nemo", tmp_path / "family", tmp_path / "disk")
    place = tmp_path / "disk"
    full = f"error: {place / 'checkpoint'}: no space left on the disk; nothing was changed there"
    twice = f"error: --to-yaml: {place / 'run.yaml'} already exists and is not replaced; name another file"
    expected = [
        (2, "bytes are needed and", []),
        *[(2, full, [])] * 3,
        (2, f"error: {place / 'run.yaml'}: no space left on the disk; nothing was changed there", []),
        (0, "", ["run.yaml"]),
        (2, twice, ["run.yaml"]),
        (0, "", ["checkpoint", "run.yaml"]),
        (0, "", ["checkpoint", "run.yaml"]),
    ]
    for got, (code, error, left) in zip(output, expected):
        lines = got["error"].splitlines()
        assert (got["code"], got["names"]) == (code, left), got
        assert not code or (error in lines[-1] and "Traceback" not in got["error"]), got
        assert sum(line.startswith("error: ") for line in lines) == (code != 0), got
    assert all(len(got["error"].splitlines()) <= 1 for got in output[2:])  # NeMo has said what it says when it begins
    assert "is one model" in output[-1]["error"]


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


def test_a_place_that_is_read_only_is_reported_before_anything_is_computed(family, tmp_path):
    """The text that a search, a ranking or a calibration would read is not even there."""
    shutil.copytree(family, tmp_path / "family")
    place = tmp_path / "disk"
    output = scenario("read_only_early", tmp_path / "family", place)
    read_only = f"cannot be written (Read-only file system: {place}"
    for got, name in zip(output, ("family/elastic.json", "shape.json", "family/auto.json", "ranking", "cut", "data")):
        where = f"{place}/family)" if name.startswith("family/") else f"{place})"
        assert (got["code"], got["names"]) == (2, ["family"]), got
        assert got["error"] == f"error: {place / name}: {read_only.removesuffix(str(place))}{where}\n", got
    assert len(output) == 6


def test_a_volume_where_the_output_should_be(family, tmp_path):
    output = scenario("mount_point", family, tmp_path / "disk")
    line = "is a mount point, which cannot be replaced; name a folder inside it"
    check(output, (2, "already exists", []), (2, line, []), (0, "", ["cut"]))


def test_what_is_not_ours_to_write_or_to_read(family, run):
    """As a user who is not root: root may write everywhere."""
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place, "family"), Path(place, "target")
        shutil.copytree(family, source)
        target.mkdir()
        for code in (0, 2):  # all modules are loaded then: they may not be his to read
            assert run("slice", source, "--member", "small", "--out", Path(place, "warm"))[0] == code
        for path, mode in ((place, 0o755), (source, 0o755), (target, 0o555)):
            os.chmod(path, mode)

        def cut() -> None:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            main(["slice", str(source), "--member", "small", "--out", str(target / "cut")])

        line = f"error: {target / 'cut'}: cannot be written (Permission denied: {target})\n"
        assert in_child(cut) == (2, line) and names(target) == []
        target.chmod(0o777)
        # nor may he read everything
        (source / "tokenizer.json").write_text("{}")
        for path in (source / "tokenizer.json", source / "model.safetensors", source / "config.json"):
            mode = path.stat().st_mode
            path.chmod(0)
            code, line = in_child(cut)
            assert code == 2 and f"{path}: cannot be read (Permission denied)\n" in line and names(target) == []
            path.chmod(mode)
        assert in_child(cut) == (0, "") and open_source(target / "cut").held == MEMBERS["small"]


def test_a_limit_on_the_size_of_files(family, tmp_path):
    """What a disk quota or a file system for sticks does, and what needs no right to mount."""

    def limited(limit: int) -> tuple[int, str]:
        def cut() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            main(["slice", str(family), "--member", "full", "--out", str(tmp_path / "cut")])

        return in_child(cut)

    size = (family / "model.safetensors").stat().st_size
    line = "a file is larger than the file system, or `ulimit -f`, allows; nothing was changed there"
    for limit in (100, size - 1):
        assert limited(limit) == (2, f"error: {tmp_path / 'cut'}: {line}\n") and names(tmp_path) == []
    assert limited(size) == (0, "") and verify(tmp_path / "cut", forward=False).ok


def test_a_target_that_cannot_be(family, tmp_path, run):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for out, why in (
        (tmp_path / "file" / "cut", "Not a directory"),
        (tmp_path / ("n" * 256), "File name too long"),
        (tmp_path / "loop" / "cut", "Too many levels of symbolic links"),
    ):
        code, _, err = run("slice", family, "--member", "small", "--out", out)
        assert code == 2 and f"cannot be written ({why}" in err and len(err.splitlines()) == 1
    assert names(tmp_path) == ["file", "loop"]

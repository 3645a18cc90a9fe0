# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever happens while a member is cut: no folder looks whole and is not, one clear line, a second try works.

What is broken in a source is in `test_faults_source.py`; that a kill at every single step does no harm, in
`tests/io/test_kills.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nemo_elastic import slice_checkpoint
from nemo_elastic.cli import main
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.slicing.verification import verify
from tests.bad_input.case import LARGE as LARGE_BLOCK
from tests.shapes import PARENT
from tests.support.alone import alone

from .helpers import random_values, random_words, write

ROOT = Path(__file__).parents[2]
KILLS = 7  # in each of three ways
LARGE = replace(PARENT, hidden=1024, vocab=2048, ffn=4096, mamba_heads=32, mamba_head_dim=32)
MEMBERS = {"small": PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def in_child(action: Callable[[], object], kill_after: float | None = None) -> tuple[int, str]:
    """Run it in a child, and kill that after some seconds.

    Returns:
        Its exit code, or minus the number of the signal that ended it (99 is a traceback), and what it said on stderr.
    """
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
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    with open(read) as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small") / "family", PARENT, MEMBERS, tensors=random_values(PARENT))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A family that takes long enough to be killed in the middle, and its two members as they should be."""
    place = tmp_path_factory.mktemp("large")
    members = {"big": LARGE.uniform(hidden=768), "low": LARGE.uniform([0, 1], hidden=256)}
    finite = 0xBFFF
    words = {name: Tensor.of_words(raw.dtype, raw.words & finite) for name, raw in random_words(LARGE).items()}
    write(place / "family", LARGE, members, tensors=words)
    expect = {}
    for name in members:
        slice_checkpoint(place / "family", place / name, member=name, shard_bytes=8 * 10**6)
        expect[name] = digest(place / name)
        shutil.rmtree(place / name)
    yield place / "family", expect
    shutil.rmtree(place)


@pytest.mark.parametrize("way", ["force", *(pytest.param(w, marks=pytest.mark.long) for w in ("one", "several"))])
@alone
def test_killed_at_random_points(large, tmp_path, way):
    family, expect = large
    out = tmp_path / "out"
    members = ["big", "low"] if way == "several" else ["big"]
    folders = {out / name: expect[name] for name in members} if way == "several" else {out: expect["big"]}

    def cut(*options: str) -> None:
        budgets = [word for name in members for word in ("--budget", name)]
        main(["slice", str(family), *budgets, "--out", str(out), "--max-shard-size", "8MB", *options])

    def whole(*options: str) -> float:
        start = time.perf_counter()
        assert in_child(lambda: cut(*options)) == (0, "")
        took = time.perf_counter() - start
        assert {folder: digest(folder) for folder in folders} == folders and names(tmp_path) == ["out"]
        return took

    took = min(whole(), whole("--force"))
    rng = random.Random(KILLS)
    killed, in_the_middle = 0, 0
    for i in range(8 * KILLS):
        if i >= KILLS and in_the_middle and killed >= KILLS // 2:
            break  # a busy machine needs more of them to kill one in the middle of a file
        shutil.rmtree(out)
        options = ["--force"] if way == "force" else []
        if options:
            slice_checkpoint(family, out, member="low", shard_bytes=8 * 10**6)
        moment = took * (i % KILLS + rng.random()) / KILLS
        code, _ = in_child(lambda options=options: cut(*options), moment)
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        in_the_middle += any(path.stat().st_size for path in tmp_path.glob(".out.*.tmp/**/*.safetensors"))
        if options and digest(out) == expect["low"]:
            assert verify(out, forward=False).ok  # the one before
        elif out.exists():
            assert {folder: digest(folder) for folder in folders} == folders
            assert all(verify(folder, forward=False).ok for folder in folders)
        else:
            assert way != "force"
        took = min(took, whole("--force"))
        assert way != "several" or names(out) == [".nemo-elastic", *members]
    assert killed >= KILLS // 2 and in_the_middle >= 1, (killed, in_the_middle, took)


def test_a_second_try_that_is_refused_clears_up_as_well(family, tmp_path, run):
    leftovers = [tmp_path / ".out.0123abcd.tmp", tmp_path / ".out.0123abcd.lock"]
    slice_checkpoint(family, tmp_path / "out", member="small")
    leftovers[0].mkdir()
    leftovers[1].touch()
    code, _, err = run("slice", family, "--budget", "small", "--out", tmp_path / "out")
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
            assert run("slice", source, "--budget", "small", "--out", Path(place, "warm"))[0] == code
        for path, mode in ((place, 0o755), (source, 0o755), (target, 0o555)):
            os.chmod(path, mode)

        def cut() -> None:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            main(["slice", str(source), "--budget", "small", "--out", str(target / "cut")])

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
            main(["slice", str(family), "--budget", "full", "--out", str(tmp_path / "cut")])

        return in_child(cut)

    size = (family / "model.safetensors").stat().st_size
    line = "a file is larger than the file system, or `ulimit -f`, allows; nothing was changed there"
    for limit in (0, 100, size // 2, size - 1):
        assert limited(limit) == (2, f"error: {tmp_path / 'cut'}: {line}\n") and names(tmp_path) == []
    assert limited(size) == (0, "") and verify(tmp_path / "cut", forward=False).ok


@pytest.mark.parametrize("kind", ["ours", "empty folder", "link to ours", "dangling link"])
def test_a_target_that_is_there(family, tmp_path, run, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    slice_checkpoint(family, other, member="full")
    if kind == "ours":
        shutil.copytree(other, out)
    elif kind == "empty folder":
        out.mkdir()
    else:
        out.symlink_to(other if kind == "link to ours" else "nowhere")
    before, kept = names(tmp_path), digest(other)
    code, _, err = run("slice", family, "--budget", "small", "--out", out)
    assert code == 2 and err == f"error: {out}: already exists; --force replaces it\n" and names(tmp_path) == before
    assert run("slice", family, "--budget", "small", "--out", out, "--force")[0] == 0
    assert not out.is_symlink() and verify(out, forward=False).ok and open_source(out).held == MEMBERS["small"]
    assert names(tmp_path) == ["other", "out"] and digest(other) == kept


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_target_that_is_not_ours(family, tmp_path, run, kind):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    if kind == "folder":
        shutil.copytree(other, out)
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(other)
    before = names(tmp_path), names(other)
    for options, line in (
        ([], "already exists, and is not a member that nemo-elastic wrote; name another folder"),
        (["--force"], "is not a member that nemo-elastic wrote, so --force does not replace it; move it away first"),
    ):
        code, _, err = run("slice", family, "--budget", "small", "--out", out, *options)
        assert code == 2 and err == f"error: {out}: {line}\n"
        assert (names(tmp_path), names(other)) == before and (kind == "file" or names(out) == ["mine"])


def test_a_target_that_cannot_be(family, tmp_path, run):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for out, why in (
        (tmp_path / "file" / "cut", "Not a directory"),
        (tmp_path / ("n" * 256), "File name too long"),
        (tmp_path / "loop" / "cut", "Too many levels of symbolic links"),
    ):
        code, _, err = run("slice", family, "--budget", "small", "--out", out)
        assert code == 2 and f"cannot be written ({why}" in err and len(err.splitlines()) == 1
    assert names(tmp_path) == ["file", "loop"]

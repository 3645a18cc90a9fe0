# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny recipe: parent → rank → stage 1 → stage 2 → slice, one experiment, two torchrun ranks a job.

It runs once; every test reads what the jobs left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nemo_elastic.history import METRICS
from tests.texts import library_text
from tests.workers import environment

ROOT = Path(__file__).parents[2]
STEPS, LOCAL_SAVES = (8, 6), ["step=3-last", "step=5-last"]  # of `tiny_jobs`, and what is saved at Ctrl-C
NAMES = ("1.6m", "1.1m", "0.8m")
pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow(minutes=3), pytest.mark.long]


def run(name: str, folder: Path, code: int = 0) -> str:
    """Run a function of `tiny_jobs` in a process that ends with a code; what it says on stderr."""
    command = [sys.executable, "-m", "tests.recipes.tiny_jobs", name, str(folder)]
    env = environment(NEMORUN_HOME=str(folder / "home"))
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == code, done.stdout[-5000:] + done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nemo_elastic.data.build import build_data

    folder = tmp_path_factory.mktemp("tiny")
    text = library_text(folder / "text")
    build_data(folder / "data", [text], vocab=1024, held_out_problems=4)
    block = OmegaConf.load(ROOT / "conf" / "elastic_tiny.yaml")
    block.elastic.importance = {"samples": 8, "depth_samples": 1}
    block.elastic.search = {"candidates": 8, "tokens": 256}
    OmegaConf.save(block, folder / "elastic.yaml")
    run("whole", folder)
    return folder


def test_every_job_goes_on_with_what_the_one_before_it_left(ran: Path) -> None:
    """As rehearsals of the large recipes look at it in every tensor (`nemo_elastic.rehearsal.findings`)."""
    from nemo_elastic.formats.folders import read_shapes
    from nemo_elastic.ranking import Ranking

    place = ran / "tiny"
    ends = [place / f"stage{i}" / "checkpoints" / f"step={steps - 1}-last" for i, steps in enumerate(STEPS, 1)]
    family, *trained = (read_shapes(folder).family for folder in (place / "family", *ends))
    assert family is not None and [m.name for m in family] == list(NAMES)
    for stage, steps, left in zip(("stage1", "stage2"), STEPS, trained, strict=True):
        assert left is not None and [m.subnet for m in left] == [m.subnet for m in family]
        lines = [json.loads(line) for line in (place / stage / METRICS).read_text().splitlines()]
        assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, steps + 1))
    assert family.ranking_digest == Ranking.load(place / "rank" / "elastic" / "ranking").digest
    assert not (place / "stage1" / "elastic" / "ranking").exists(), "nothing was ranked again"


def test_the_family_is_cut_into_its_members(ran: Path) -> None:
    from nemo_elastic.formats.folders import read_shapes
    from nemo_elastic.slicing.verification import verify

    assert verify(ran / "tiny" / "family").ok
    for member in read_shapes(ran / "tiny" / "family").family or ():
        assert read_shapes(ran / "tiny" / "members" / member.name).subnet == member.subnet


def test_ctrl_c_ends_every_rank_of_a_local_run_and_the_same_command_goes_on(ran: Path) -> None:
    """`recipes/run.py --local`: torchrun in a session of its own, two ranks, and a job behind them."""
    import psutil

    out = ran / "local"
    out.mkdir()
    (out / "rank").symlink_to(ran / "tiny" / "rank")
    (ran / "press").touch()
    said = run("local", ran, code=130)
    assert said.splitlines()[-1] == "interrupted" and "Traceback" not in said
    seen = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]  # none of what has ended
    left = [command for command in seen if str(ran / "home") in command]
    assert left == [], "no rank trains on"
    assert {path.name for path in out.iterdir()} == {"rank", "stage1"}, "nothing behind it was started"
    saved = {path.name for path in (out / "stage1" / "checkpoints").glob("*-last")}
    assert sorted(saved) == LOCAL_SAVES
    (ran / "press").unlink()
    run("local", ran)
    assert (out / "behind").is_dir()
    lines = [json.loads(line) for line in (out / "stage1" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, STEPS[0] + 1))

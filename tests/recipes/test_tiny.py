# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny recipe: parent → rank → stage 1 → stage 2 → slice, one experiment, two torchrun ranks a job.

It runs once; every test reads what the jobs left and what `tiny_jobs.StateRecorder` wrote down inside them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.texts import library_text, spoiled
from tests.workers import environment

ROOT = Path(__file__).parents[2]
STEPS, LOCAL_SAVES = (8, 6), ["step=1-last", "step=3-last"]  # of `tiny_jobs`, and what is saved at Ctrl-C
NAMES = ("1.6m", "1.1m", "0.8m")
pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow(minutes=3)]


def run(name: str, folder: Path, *args: str, code: int = 0) -> str:
    """Run a function of `tiny_jobs` in a process that ends with a code; what it says on stderr."""
    command = [sys.executable, "-m", "tests.recipes.tiny_jobs", name, str(folder), *args]
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
    block.elastic.halving = {"tokens": 512}
    OmegaConf.save(block, folder / "elastic.yaml")
    run("whole", folder)
    return folder


@pytest.fixture(scope="module")
def record(ran: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """What each stage recorded on each rank: (stage, rank) -> facts."""
    return {
        (s, r): json.loads((ran / "record" / f"stage{s}-rank{r}.json").read_text()) for s in (1, 2) for r in (0, 1)
    }


def test_stage_two_starts_with_exactly_what_stage_one_left(record: Any) -> None:
    for rank in (0, 1):
        assert record[2, rank]["start"] == record[1, rank]["end"]


def test_stages_train_as_the_curriculum_says_and_the_teacher_stays(record: Any) -> None:
    for key, facts in record.items():
        start, end = facts["start"], facts["end"]
        assert start["weights"] != end["weights"] and start["teacher"] == end["teacher"] and end["moments"] > 0, key
        assert facts["parallel"] == [2, 1, True], "tensor-parallel, with sequence parallelism"
    first, second = record[1, 0], record[2, 0]
    assert first["start"]["members"] != first["end"]["members"]
    assert second["start"]["members"] == second["end"]["members"]
    assert (first["length"], second["length"]) == ([None, 128, 128], ["full", 256, 256])
    assert first["sampling"] == pytest.approx([1 / 3] * 3) and second["sampling"] == [0.5, 0.3, 0.2]
    # shards: the ranks of a stage hold different weights, and the same candidates
    assert first["start"]["weights"] != record[1, 1]["start"]["weights"]
    assert first["end"]["members"] == record[1, 1]["end"]["members"]


def test_stage_one_starts_with_the_members_of_the_ranking(ran: Path, record: Any) -> None:
    actual = json.loads((ran / "tiny" / "rank" / "elastic" / "shapes.json").read_text())
    assert actual["report"]["source"] == "search"
    assert record[1, 0]["members"] == [actual["members"][name] for name in NAMES]
    assert not record[1, 0]["frozen"]
    assert record[2, 0]["frozen"]
    assert not (ran / "tiny" / "stage1" / "elastic" / "ranking").exists()
    assert record[2, 1]["end_members"] == record[1, 0]["end_members"]


def test_stage_one_starts_with_the_sorted_parent(ran: Path, record: Any) -> None:
    """Ranked at tensor-parallel size 1, loaded at 2."""
    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.plan import preset
    from nemo_elastic.ranking import Ranking, sort
    from tests.support.states import read_checkpoint

    parent = ElasticConfig.load(ran / "elastic.yaml").parent_shape(preset("nemotron-h-tiny"))
    whole, _ = read_checkpoint(ran / "tiny" / "parent" / "checkpoints" / "step=3-last", parent)
    ranked, elastic = read_checkpoint(ran / "tiny" / "rank" / "checkpoints" / "ranked", parent)
    ranking = Ranking.load(ran / "tiny" / "rank" / "elastic" / "ranking", parent)
    ordered = sort(whole, ranking, parent)
    assert all((ordered[name] == ranked[name]).all() for name in ordered)
    assert any((whole[name] != ranked[name]).any() for name in ordered)
    kept = next(i for i in reversed(ranking.depth) if parent.types[i] == "attention")
    assert elastic["drop_order"].tolist() == [i for i in ranking.depth if i != kept] + [kept]
    first, second = record[1, 0], record[1, 1]
    assert first["norm"] == second["norm"] == ranked["backbone.norm_f.weight"].tolist()
    assert first["row"] + second["row"] == ranked["backbone.layers.1.mixer.down_proj.weight"][0].tolist()


def test_the_learning_rate_is_one_schedule_over_both_stages(record: Any) -> None:
    from nemo_elastic.train.training import Rates

    whole = Rates(total_steps=sum(STEPS), warmup_steps=2)
    assert record[2, 0]["lr"] == record[1, 0]["end_lr"]
    assert max(record[2, 0]["lr"]) == pytest.approx(3e-3 * whole.model(STEPS[0]))
    assert max(record[2, 0]["end_lr"]) == pytest.approx(3e-3 * 0.1)


def test_the_family_holds_the_members_that_were_trained(ran: Path, record: Any) -> None:
    from nemo_elastic.core.cost import parameters
    from nemo_elastic.formats.folders import read_shapes
    from nemo_elastic.ranking import Ranking
    from nemo_elastic.slicing.verification import verify

    shapes = read_shapes(ran / "tiny" / "family")
    assert shapes.family is not None
    assert [m.name for m in shapes.family] == list(NAMES)
    assert [m.subnet.to_json() for m in shapes.family] == record[2, 0]["end_members"]
    assert shapes.family.ranking_digest == Ranking.load(ran / "tiny" / "rank" / "elastic" / "ranking").digest
    assert verify(ran / "tiny" / "family").ok
    for member in shapes.family:
        cut = read_shapes(ran / "tiny" / "members" / member.name)
        assert cut.held == member.subnet
        assert parameters(cut.parent, cut.held) == member.parameters


@pytest.mark.long
def test_tokens_outside_the_vocabulary_end_a_stage_in_one_line(ran: Path) -> None:
    whole = ran / "data"
    after_ranking(ran, "spoiled")
    whole.rename(ran / "whole")
    try:
        spoiled(ran / "whole", whole, "train")
        said = run("alone", ran, "spoiled", code=2)
    finally:
        shutil.rmtree(whole)
        (ran / "whole").rename(whole)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: data: 60000 ") and "Traceback" not in said


@pytest.mark.long
def test_ctrl_c_ends_every_rank_of_a_local_run_and_the_same_command_goes_on(ran: Path) -> None:
    """`recipes/run.py --local`: torchrun in a session of its own, two ranks, and a job behind them."""
    import psutil

    from nemo_elastic.history import METRICS

    out = after_ranking(ran, "local")
    (ran / "press").touch()
    said = run("local", ran, "local", code=130)
    assert said.splitlines()[-1] == "interrupted" and "Traceback" not in said
    seen = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]  # none of what has ended
    left = [command for command in seen if str(ran / "home") in command]
    assert left == [], "no rank trains on"
    assert {path.name for path in out.iterdir()} == {"rank", "stage1"}, "nothing behind it was started"
    saved = {path.name for path in (out / "stage1" / "checkpoints").glob("*-last")}
    assert sorted(saved) == LOCAL_SAVES
    (ran / "press").unlink()
    run("local", ran, "local")
    assert (out / "behind").is_dir()
    lines = [json.loads(line) for line in (out / "stage1" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, STEPS[0] + 1))


def after_ranking(ran: Path, name: str) -> Path:
    """A folder for a curriculum whose ranking is done."""
    rank = ran / name / "rank"
    rank.parent.mkdir()
    rank.symlink_to(ran / "tiny" / "rank")
    return rank.parent

# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny recipe: parent → rank → stage 1 → stage 2 → slice, one experiment, two torchrun ranks a job.

It runs once; every test reads what the jobs left and what `recorder.StateRecorder` wrote down inside them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.texts import library_text, spoiled
from tests.workers import environment

from .tiny_worker import STEPS

ROOT = Path(__file__).parents[2]
STOPPED_STEPS = 6  # of stop_worker, which imports NeMo
LOCAL_STEPS, LOCAL_SAVES = 8, ["step=1-last", "step=3-last"]  # of local_worker, and what it has saved at Ctrl-C
NAMES = ("1.6m", "1.1m", "0.8m")
pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow(minutes=3)]


def run_worker(name: str, folder: Path, *args: str, code: int = 0, launcher: Sequence[str] = ()) -> str:
    """Run a module of this folder in a process of its own, or of a launcher's, which ends with a code.

    Returns what it says on stderr.
    """
    env = environment(NEMORUN_HOME=str(folder / "home"))
    command = [sys.executable, "-m", *launcher, f"tests.recipes.{name}", str(folder), *args]
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
    run_worker("tiny_worker", folder)
    return folder


@pytest.fixture(scope="module")
def record(ran: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """What each stage recorded on each rank: (stage, rank) -> facts."""
    return {
        (s, r): json.loads((ran / "record" / f"stage{s}-rank{r}.json").read_text()) for s in (1, 2) for r in (0, 1)
    }


@pytest.mark.parametrize("part", ["weights", "members", "optimizer", "moments", "teacher"])
@pytest.mark.parametrize("rank", [0, 1])
def test_stage_two_starts_with_exactly_what_stage_one_left(record: Any, part: str, rank: int) -> None:
    assert record[2, rank]["start"][part] == record[1, rank]["end"][part]


def test_stages_train_and_the_teacher_stays(record: Any) -> None:
    for key, facts in record.items():
        assert facts["start"]["weights"] != facts["end"]["weights"], key
        assert int(facts["end"]["moments"]) > 0
        assert not facts["teacher_moved"]
    assert record[1, 0]["start"]["members"] != record[1, 0]["end"]["members"]
    assert record[2, 0]["start"]["members"] == record[2, 0]["end"]["members"]


def test_stage_two_has_its_own_context_length_sampling_and_recomputation(record: Any) -> None:
    assert record[1, 0]["length"] == [None, 128, 128]
    assert record[2, 0]["length"] == ["full", 256, 256]
    assert record[1, 0]["sampling"] == pytest.approx([1 / 3] * 3)
    assert record[2, 0]["sampling"] == [0.5, 0.3, 0.2]


def test_stages_are_tensor_parallel_with_sequence_parallelism(record: Any) -> None:
    for facts in record.values():
        assert facts["parallel"] == [2, 1, True]
    # shards: the ranks of a stage hold different weights, and the same candidates
    assert record[1, 0]["start"]["weights"] != record[1, 1]["start"]["weights"]
    assert record[1, 0]["end"]["members"] == record[1, 1]["end"]["members"]


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
def test_a_job_is_stopped_in_time_and_the_next_goes_on(ran: Path) -> None:
    """A stage that has not ended gives no code of success; its metrics do not show that it was stopped."""
    from nemo_elastic.history import METRICS, read_history

    stage, actual = after_ranking(ran, "stopped") / "stage1", set()
    for step, left, code in (("3", "step=3-last", 75), (None, f"step={STOPPED_STEPS - 1}-last", 0)):
        run_worker("stop_worker", ran, "stopped", *([step] if step else []), code=code)
        actual.add(left)  # two are kept
        assert {path.name for path in (stage / "checkpoints").iterdir()} == actual
    lines = [json.loads(line) for line in (stage / METRICS).read_text().splitlines()]
    assert read_history(stage / METRICS).lines == lines
    steps = [(line["step"], line["tokens"]) for line in lines if line["kind"] == "step"]
    assert steps == [(i, i * 4 * 128) for i in range(1, STOPPED_STEPS + 1)]


@pytest.mark.long
def test_tokens_outside_the_vocabulary_end_a_stage_in_one_line(ran: Path) -> None:
    whole = ran / "data"
    after_ranking(ran, "spoiled")
    whole.rename(ran / "whole")
    try:
        spoiled(ran / "whole", whole, "train")
        said = run_worker("stop_worker", ran, "spoiled", code=2)
    finally:
        shutil.rmtree(whole)
        (ran / "whole").rename(whole)
    line = "error: data: 60000 is not allowed; tokens are 0 to 1023, as the model has"
    assert line in said.splitlines() and "Traceback" not in said


@pytest.mark.long
def test_torchrun_ends_with_an_error_where_its_ranks_were_terminated(ran: Path) -> None:
    after_ranking(ran, "terminated")
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m")
    run_worker("stop_worker", ran, "terminated", "1", "plain", code=1, launcher=launcher)
    assert list((ran / "terminated" / "stage1" / "checkpoints").glob("*-last*")) == []


@pytest.mark.long
def test_ctrl_c_ends_every_rank_of_a_local_run_and_the_same_command_goes_on(ran: Path) -> None:
    """`recipes/run.py --local`: torchrun in a session of its own, two ranks, and a job behind them."""
    import psutil

    from nemo_elastic.history import METRICS

    out = after_ranking(ran, "local")
    (ran / "press").touch()
    said = run_worker("local_worker", ran, "local", code=130)
    assert said.splitlines()[-1] == "interrupted" and "Traceback" not in said
    seen = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]  # none of what has ended
    left = [command for command in seen if str(ran / "home") in command]
    assert left == [], "no rank trains on"
    assert {path.name for path in out.iterdir()} == {"rank", "stage1"}, "nothing behind it was started"
    saved = {path.name for path in (out / "stage1" / "checkpoints").glob("*-last")}
    assert sorted(saved) == LOCAL_SAVES
    (ran / "press").unlink()
    run_worker("local_worker", ran, "local")
    assert (out / "behind").is_dir()
    lines = [json.loads(line) for line in (out / "stage1" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, LOCAL_STEPS + 1))


def after_ranking(ran: Path, name: str) -> Path:
    """A folder for a curriculum whose ranking is done."""
    rank = ran / name / "rank"
    rank.parent.mkdir()
    rank.symlink_to(ran / "tiny" / "rank")
    return rank.parent


def test_a_ranking_with_another_block_is_refused_and_with_the_same_taken(ran: Path) -> None:
    from dataclasses import replace

    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.config.sections import DistillConfig
    from nemo_elastic.errors import ElasticError
    from nemo_elastic.hosts.nemo.curriculum.rank import already_ranked

    checkpoint = ran / "tiny" / "rank" / "checkpoints" / "ranked"
    config = ElasticConfig.load(ran / "elastic.yaml")
    config = replace(config, distill=DistillConfig(teacher="none"))
    assert already_ranked(checkpoint, config)
    assert not already_ranked(checkpoint.with_name("other"), config)
    with pytest.raises(ElasticError, match=r"elastic\.seed: "):
        already_ranked(checkpoint, replace(config, seed=7))

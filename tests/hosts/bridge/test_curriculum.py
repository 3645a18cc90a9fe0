# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes as NeMo-Run's jobs: what Slurm would be given, what torchrun, and what a process of a job builds.

What is the same for every host is in `tests/recipes/test_executors.py`. `test_rehearse.py` runs such jobs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.errors import STOPPED
from nemo_elastic.plan.stages import PAPER
from tests.hosts.bridge.recipes import recipe_of
from tests.recipes.test_executors import DATA, SLURM, SSH, flags, planned, read, script
from tests.workers import ROOT

RECIPE = ["--recipe", "bridge/nemotron_elastic_12b", "--parent", "/checkpoints/12b", "--dir", "/runs/12b"]


@pytest.fixture(autouse=True)
def recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))


def tasks(folder: Path) -> dict[str, Any]:
    """What the processes of each job would call."""
    from nemo_run.core.serialization.zlib_json import ZlibJSONSerializer

    files = folder.rglob("*_fn_or_script")
    return {p.name.removesuffix("_fn_or_script"): ZlibJSONSerializer().deserialize(p.read_text()).task for p in files}


def test_slurm_gets_every_job_in_order_with_the_planners_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script("run", ["--slurm", *RECIPE, *DATA, *SLURM, *SSH, "--jobs", "2", "--dryrun", "dry"], tmp_path, monkeypatch)
    dry = read(capsys.readouterr().out, tmp_path / "dry")
    assert dry.table == planned(recipe_of("12b"))
    for job, file in dry.files.items():
        given = flags(file)
        assert given["job-name"] == f"bridge-nemotron_elastic_12b.{job}"
        assert given["nodes"] == ("16" if job.startswith("stage") else "1")
        assert given.get("signal") == ("15@900" if job.startswith("stage") else None)
        assert "fdl_runner" in file
    last = {"stage1": 0, "stage1_2": STOPPED, "stage2": 0, "stage2_4": STOPPED}
    report = tasks(tmp_path / "dry")
    assert {name: report[name].stopped for name in last} == last


def test_a_process_builds_the_job_that_was_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fiddle

    from nemo_elastic.hosts.bridge.apply import ElasticRun

    script("run", ["--slurm", *RECIPE, *DATA, *SLURM, *SSH, "--jobs", "1", "--dryrun", "dry"], tmp_path, monkeypatch)
    data = [0.7, "/data/code", 0.3, "/data/web"]
    family = recipe_of("12b")
    wanted = family.build_all(family.run_of("/checkpoints/12b", data, "/runs/12b"))
    built: list[tuple[Any, int]] = []
    monkeypatch.setattr(ElasticRun, "pretrain_to_logs", lambda run, stopped=STOPPED: built.append((run, stopped)))
    report = tasks(tmp_path / "dry")
    for name, run in wanted.items():
        fiddle.build(report[name])()
        there, stopped = built.pop()
        assert there.settings() == run.settings(), name
        assert stopped == STOPPED
        script("run", ["--job", name, *RECIPE, *DATA], tmp_path, monkeypatch)
        assert built.pop()[0].settings() == run.settings(), "by itself"
    assert report["slice"].out == "/runs/12b"


def test_a_process_has_all_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what a script passes on, and the block's own ranking."""
    import fiddle

    from nemo_elastic.hosts.bridge.apply import ElasticRun
    from nemo_elastic.hosts.common.curriculum_run import CurriculumRun

    family = recipe_of("9b")
    block = replace(family.config, ranking="/runs/before/ranking")
    run = family.run_of("/checkpoints/9b", ["/data/text"], "/runs/9b", num_nodes=1, block=block)
    first = family.layout(1, PAPER, 8, "h200")
    layouts = tuple(replace(first, tensor=tensor, pipeline=1, context=1, data=8 // tensor) for tensor in (4, 8))
    run = replace(run, layouts=layouts, save_every=7, validations=3, workers=0, cuda=False, shape=family.parent)
    assert CurriculumRun.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    built: list[Any] = []
    monkeypatch.setattr(ElasticRun, "pretrain_to_logs", lambda job, _: built.append(job.config))
    jobs = family.described(run)
    for name, tensor in (("rank", 1), ("stage1", 4), ("stage2", 8)):
        fiddle.build(jobs[name].task)()
        config = built.pop()
        assert config.model.tensor_model_parallel_size == tensor
        steps = run.stage(name).max_steps
        assert (config.checkpoint.save_interval, config.validation.eval_interval) == (7, steps // 3)
        assert (config.dataset.num_workers, config.dist.distributed_backend) == (0, "gloo")
    assert jobs["slice"].task.ranking == "/runs/before/ranking"
